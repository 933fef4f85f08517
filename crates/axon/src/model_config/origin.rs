//! Where a configuration was read from, and what it says at which place.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{Error, ErrorKind};

/// What is wrong, and at which byte of the text.
#[derive(Debug)]
pub(super) struct Problem {
    pub offset: usize,
    pub message: String,
}

impl Problem {
    pub fn new(offset: usize, message: impl fmt::Display) -> Self {
        Self { offset, message: message.to_string() }
    }
}

/// What a configuration was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Nothing was configured.
    None,
    /// A file of this name.
    File(&'static str),
    /// A request's parameter.
    Parameter(&'static str),
}

/// What a field is called where it was written, when not as in `config.pbtxt`, and where that is.
#[derive(Clone, Debug)]
struct Written {
    name: Option<String>,
    offset: usize,
}

/// A configuration's text and the places of its fields in it.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    source: Source,
    text: String,
    places: BTreeMap<String, Written>,
}

impl Origin {
    pub fn new(source: Source, text: &str) -> Self {
        Self { source, text: text.to_owned(), places: BTreeMap::new() }
    }

    pub fn source(&self) -> Source {
        self.source
    }

    /// Notes where the field at `path` is; the first place of a repeated one counts.
    pub fn note(&mut self, path: &str, offset: usize) {
        if !self.places.contains_key(path) {
            self.places.insert(path.to_owned(), Written { name: None, offset });
        }
    }

    /// Notes that the field at `path` is written as `name`.
    pub fn note_as(&mut self, path: &str, name: &str, offset: usize) {
        self.places.entry(path.to_owned()).or_insert(Written { name: Some(name.to_owned()), offset });
    }

    /// True when the field at `path` is written there, with whatever value.
    pub fn says(&self, path: &str) -> bool {
        self.places.contains_key(path)
    }

    /// The error of a field that was read, at its place or at that of what holds it.
    pub fn error(&self, path: &str, problem: impl fmt::Display) -> Error {
        let mut holder = path;
        let written = loop {
            if let Some(written) = self.places.get(holder) {
                break Some(written);
            }
            match holder.rfind(['.', '[']) {
                Some(end) => holder = holder.get(..end).unwrap_or_default(),
                None => break None,
            }
        };
        let name = match written {
            Some(Written { name: Some(name), .. }) if holder == path => name,
            _ => path,
        };
        let offset = written.map(|written| written.offset);
        self.located(offset, name, format_args!("{name}: {problem}"))
    }

    /// `line:column: ` of a byte; both begin at 1, columns count characters. Found when it is told, as few are.
    fn place(&self, offset: usize) -> String {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        format!("{line}:{column}: ")
    }

    /// The error of a text that could not be read.
    pub fn unreadable(&self, problem: &Problem) -> Error {
        self.located(Some(problem.offset), "", format_args!("{}", problem.message))
    }

    fn located(&self, offset: Option<usize>, field: &str, text: fmt::Arguments<'_>) -> Error {
        let place = offset.map(|offset| self.place(offset)).unwrap_or_default();
        let error = match self.source {
            Source::None => Error::new(ErrorKind::InvalidModel, text.to_string()),
            Source::File(name) => {
                let colon = if place.is_empty() { ": " } else { ":" };
                Error::new(ErrorKind::InvalidModel, format!("{name}{colon}{place}{text}"))
            }
            Source::Parameter(name) => return Error::invalid(name, format_args!("{place}{text}")),
        };
        if field.is_empty() { error } else { error.with_field(field.to_owned()) }
    }
}

/// The nearest of `names`, when `name` looks like a slip of it, as the end of a message.
pub(super) fn suggestion<'a>(name: &str, names: impl Iterator<Item = &'a str> + Clone) -> String {
    const LONGEST: usize = 64;
    let nearest = (name.len() <= LONGEST)
        .then(|| names.clone().map(|known| (distance(name, known), known)).min())
        .flatten()
        .filter(|&(distance, known)| distance <= known.len().div_ceil(3));
    nearest.map_or_else(
        || format!("expected one of {}", crate::error::echo_names(names)),
        |(_, known)| format!("did you mean `{known}`"),
    )
}

/// The letters to insert, drop, change or swap with their neighbour to make one name of the other.
fn distance(one: &str, other: &str) -> usize {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let (mut before, mut above) = (Vec::new(), (0..=other.len()).collect::<Vec<_>>());
    for (index, a) in one.iter().enumerate() {
        let mut row = Vec::with_capacity(above.len());
        row.push(index + 1);
        for (column, b) in other.iter().enumerate() {
            let mut least =
                (above[column] + usize::from(a != b)).min(above[column + 1] + 1).min(row[column] + 1);
            let is_swap = index > 0 && column > 0 && *a == other[column - 1] && one[index - 1] == *b;
            if is_swap {
                let swapped: usize = before[column - 1];
                least = least.min(swapped + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_a_known_name_is_told() {
        let names = ["max_batch_size", "input", "output"];
        let check = |name: &str, expected: &str| {
            assert_eq!(suggestion(name, names.iter().copied()), expected, "{name}");
        };
        check("max_bath_size", "did you mean `max_batch_size`");
        check("imput", "did you mean `input`");
        check("ouptut", "did you mean `output`");
        check("", "expected one of `max_batch_size`, `input`, `output`");
        check("quite_another", "expected one of `max_batch_size`, `input`, `output`");
        check(&"x".repeat(1 << 20), "expected one of `max_batch_size`, `input`, `output`");
        assert_eq!((distance("abc", "abc"), distance("abc", ""), distance("kitten", "sitting")), (0, 3, 3));
    }

    #[test]
    fn an_error_is_placed_at_the_field_or_at_what_holds_it() {
        let mut origin = Origin::new(Source::File("config.pbtxt"), "\n\nxy\n  é dims\n\n rows");
        origin.note("input[0]", 2);
        origin.note("input[0].dims", 10);
        origin.note_as("max_batch_size", "rows", 17);
        let check = |path: &str, message: &str| assert_eq!(origin.error(path, "no").message(), message);
        check("input[0].dims", "config.pbtxt:4:5: input[0].dims: no");
        check("input[0].name", "config.pbtxt:3:1: input[0].name: no");
        check("output[0]", "config.pbtxt: output[0]: no");
        check("max_batch_size", "config.pbtxt:6:2: rows: no");
    }
}
