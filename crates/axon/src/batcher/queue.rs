//! What waits, by shape, class and deadline, with indexes for what comes first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::line::{Line, Rank};
use super::types::Class;

#[derive(Debug)]
pub(super) struct Entry<R> {
    pub(super) rank: Rank,
    pub(super) rows: usize,
    pub(super) bytes: usize,
    pub(super) arrived: Instant,
    /// How much longer it waits, behind the others, once its deadline is over; zero once it does.
    pub(super) lingers: Duration,
    /// Is run although it is foretold to miss, because the foretelling is in doubt.
    pub(super) probe: bool,
    pub(super) request: R,
}

/// The waiting requests of one class and shape.
#[derive(Debug)]
pub(super) struct ClassLine<R> {
    pub(super) line: Line<Entry<R>>,
    /// The first one's rank, as `deadlines` has it.
    listed: Option<Rank>,
}

/// The waiting requests of one shape.
#[derive(Debug)]
pub(super) struct Shape<K, R> {
    pub(super) key: K,
    /// By class, the most urgent first.
    pub(super) lines: BTreeMap<Class, ClassLine<R>>,
    /// The first one's class and rank, as `heads` has it.
    listed: Option<(Class, Rank)>,
}

/// The waiting requests of one model.
#[derive(Debug)]
pub(super) struct Queue<K, R> {
    shapes: Vec<Option<Shape<K, R>>>,
    places: BTreeMap<K, usize>,
    vacant: Vec<usize>,
    /// The first request of each shape, in the order in which shapes are served.
    pub(super) heads: BTreeSet<(Class, Rank, usize)>,
    /// The first request of each line, by deadline.
    pub(super) deadlines: BTreeMap<Rank, (usize, Class)>,
    /// How many wait of each class, and their bytes.
    classes: BTreeMap<Class, (usize, usize)>,
    pub(super) length: usize,
    pub(super) bytes: usize,
    pub(super) rows: usize,
    hash_key: u64,
}

impl<K: Ord + Clone, R> Queue<K, R> {
    pub(super) fn new(hash_key: u64) -> Self {
        Self {
            shapes: Vec::new(),
            places: BTreeMap::new(),
            vacant: Vec::new(),
            heads: BTreeSet::new(),
            deadlines: BTreeMap::new(),
            classes: BTreeMap::new(),
            length: 0,
            bytes: 0,
            rows: 0,
            hash_key,
        }
    }

    pub(super) fn shape(&self, place: usize) -> Option<&Shape<K, R>> {
        self.shapes.get(place)?.as_ref()
    }

    pub(super) fn count_of(&self, class: Class) -> usize {
        self.classes.get(&class).map_or(0, |&(count, _)| count)
    }

    /// How many wait that are as urgent as `class` or more, and their bytes.
    pub(super) fn as_urgent_as(&self, class: Class) -> (usize, usize) {
        let classes = self.classes.range(..=class);
        classes.fold((0, 0), |(length, bytes), (_, &(count, own))| (length + count, bytes + own))
    }

    /// Puts a request into its line; the place of its shape.
    pub(super) fn insert(&mut self, key: K, class: Class, entry: Entry<R>) -> usize {
        self.bytes += entry.bytes;
        self.rows = self.rows.saturating_add(entry.rows);
        self.length += 1;
        let of_class = self.classes.entry(class).or_default();
        *of_class = (of_class.0 + 1, of_class.1 + entry.bytes);
        let place = self.place(key);
        let hash_key = self.hash_key;
        if let Some(shape) = self.shapes.get_mut(place).and_then(Option::as_mut) {
            let line = || ClassLine { line: Line::new(hash_key), listed: None };
            let line = shape.lines.entry(class).or_insert_with(line);
            line.line.insert(entry.rank, entry.rows, entry);
        }
        self.relist(place, class);
        place
    }

    /// The last of the least urgent class: its place, class and rank.
    pub(super) fn least_urgent(&self) -> Option<(usize, Class, Rank)> {
        let (&least, _) = self.classes.last_key_value()?;
        let latest = |shape: &Shape<K, R>| shape.lines.get(&least)?.line.last();
        let shapes = self.shapes.iter().enumerate();
        let (rank, place) =
            shapes.filter_map(|(place, shape)| Some((latest(shape.as_ref()?)?, place))).max()?;
        Some((place, least, rank))
    }

    fn place(&mut self, key: K) -> usize {
        if let Some(&place) = self.places.get(&key) {
            return place;
        }
        let shape = Some(Shape { key: key.clone(), lines: BTreeMap::new(), listed: None });
        let place = if let Some(place) = self.vacant.pop() {
            self.shapes[place] = shape;
            place
        } else {
            self.shapes.push(shape);
            self.shapes.len() - 1
        };
        self.places.insert(key, place);
        place
    }

    /// Brings the indexes up to date with a line that has changed.
    fn relist(&mut self, place: usize, class: Class) {
        let Some(shape) = self.shapes.get_mut(place).and_then(Option::as_mut) else { return };
        if let Some(line) = shape.lines.get_mut(&class) {
            let first = line.line.first();
            if first != line.listed {
                if let Some(rank) = line.listed {
                    self.deadlines.remove(&rank);
                }
                if let Some(rank) = first {
                    self.deadlines.insert(rank, (place, class));
                }
                line.listed = first;
            }
            if first.is_none() {
                shape.lines.remove(&class);
            }
        }
        let head = shape.lines.first_key_value().and_then(|(&class, line)| Some((class, line.listed?)));
        if head != shape.listed {
            if let Some((class, rank)) = shape.listed {
                self.heads.remove(&(class, rank, place));
            }
            if let Some((class, rank)) = head {
                self.heads.insert((class, rank, place));
            }
            shape.listed = head;
        }
        if shape.lines.is_empty() {
            let key = shape.key.clone();
            self.places.remove(&key);
            self.shapes[place] = None;
            self.vacant.push(place);
        }
    }

    pub(super) fn take(&mut self, place: usize, class: Class, rank: Rank) -> Option<Entry<R>> {
        let entry = self.shapes.get_mut(place)?.as_mut()?.lines.get_mut(&class)?.line.remove(rank)?;
        self.forget(&entry, class);
        self.relist(place, class);
        Some(entry)
    }

    pub(super) fn take_first(&mut self, place: usize, class: Class, count: usize) -> Vec<Entry<R>> {
        let shape = self.shapes.get_mut(place).and_then(Option::as_mut);
        let Some(line) = shape.and_then(|shape| shape.lines.get_mut(&class)) else { return Vec::new() };
        if count == 0 {
            return Vec::new();
        }
        let entries = line.line.take_first(count);
        for entry in &entries {
            self.forget(entry, class);
        }
        self.relist(place, class);
        entries
    }

    /// Removes an accepted request that has left its line from the accounts.
    fn forget(&mut self, entry: &Entry<R>, class: Class) {
        self.bytes -= entry.bytes;
        self.rows = self.rows.saturating_sub(entry.rows);
        self.length -= 1;
        if let Some((count, bytes)) = self.classes.get_mut(&class) {
            *count -= 1;
            *bytes -= entry.bytes;
            if *count == 0 {
                self.classes.remove(&class);
            }
        }
    }

    /// Takes everything, in the order of arrival.
    pub(super) fn clear(&mut self) -> Vec<Entry<R>> {
        let taken = std::mem::replace(self, Self::new(self.hash_key));
        let lines = taken.shapes.into_iter().flatten().flat_map(|shape| shape.lines);
        let mut entries: Vec<_> = lines.flat_map(|(_, mut line)| line.line.take_first(usize::MAX)).collect();
        entries.sort_by_key(|entry| entry.rank.1);
        entries
    }
}
