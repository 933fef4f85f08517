//! Waiting requests in the order in which they are served, with their rows summed: a treap in a slab.
//!
//! Every operation takes a number of steps that grows with the logarithm of the length. The shape of the tree comes
//! from a hash with a key, so that no caller can choose deadlines that make it deep; what it answers does not depend
//! on the key.
//!
//! **Source:** R. Seidel and C. Aragon, *Randomized search trees*, Algorithmica 16 (1996).

use std::time::Instant;

/// Earliest deadline first, and of equal deadlines the first to arrive.
pub(super) type Rank = (Instant, u64);

/// No node.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Node<T> {
    rank: Rank,
    priority: u64,
    rows: usize,
    left: u32,
    right: u32,
    /// Of the subtree, this node included.
    count: u32,
    sum: usize,
    /// `None` while the place is free.
    value: Option<T>,
}

/// A line of fewer than `u32::MAX` requests.
#[derive(Debug)]
pub(super) struct Line<T> {
    nodes: Vec<Node<T>>,
    free: Vec<u32>,
    root: u32,
    key: u64,
}

/// The finaliser of `SplitMix64`: neighbouring numbers get unrelated priorities.
const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

impl<T> Line<T> {
    pub(super) fn new(key: u64) -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), root: NONE, key }
    }

    pub(super) fn len(&self) -> usize {
        self.count(self.root)
    }

    /// The rows of all.
    pub(super) fn rows(&self) -> usize {
        self.sum(self.root)
    }

    fn count(&self, node: u32) -> usize {
        if node == NONE { 0 } else { self.nodes[node as usize].count as usize }
    }

    fn sum(&self, node: u32) -> usize {
        if node == NONE { 0 } else { self.nodes[node as usize].sum }
    }

    /// Counts a node's subtree anew, whose children have been counted.
    fn recount(&mut self, node: u32) {
        let Node { left, right, rows, .. } = self.nodes[node as usize];
        let count = self.count(left) + self.count(right) + 1;
        let sum = self.sum(left).saturating_add(self.sum(right)).saturating_add(rows);
        let node = &mut self.nodes[node as usize];
        node.count = u32::try_from(count).unwrap_or(u32::MAX);
        node.sum = sum;
    }

    /// Puts `value` of `rows` rows into its place.
    pub(super) fn insert(&mut self, rank: Rank, rows: usize, value: T) {
        let node = Node {
            rank,
            priority: mix(rank.1 ^ self.key),
            rows,
            left: NONE,
            right: NONE,
            count: 1,
            sum: rows,
            value: Some(value),
        };
        let index = if let Some(index) = self.free.pop() {
            self.nodes[index as usize] = node;
            index
        } else {
            self.nodes.push(node);
            u32::try_from(self.nodes.len() - 1).unwrap_or(NONE)
        };
        self.root = self.insert_below(self.root, index);
    }

    fn insert_below(&mut self, root: u32, new: u32) -> u32 {
        if root == NONE {
            return new;
        }
        let (rank, priority) = (self.nodes[new as usize].rank, self.nodes[new as usize].priority);
        if priority > self.nodes[root as usize].priority {
            let (left, right) = self.split(root, rank);
            let node = &mut self.nodes[new as usize];
            (node.left, node.right) = (left, right);
            self.recount(new);
            return new;
        }
        let Node { left, right, rank: here, .. } = self.nodes[root as usize];
        if rank < here {
            self.nodes[root as usize].left = self.insert_below(left, new);
        } else {
            self.nodes[root as usize].right = self.insert_below(right, new);
        }
        self.recount(root);
        root
    }

    /// What is before `rank`, and the rest.
    fn split(&mut self, root: u32, rank: Rank) -> (u32, u32) {
        if root == NONE {
            return (NONE, NONE);
        }
        let Node { left, right, rank: here, .. } = self.nodes[root as usize];
        if here < rank {
            let (before, after) = self.split(right, rank);
            self.nodes[root as usize].right = before;
            self.recount(root);
            (root, after)
        } else {
            let (before, after) = self.split(left, rank);
            self.nodes[root as usize].left = after;
            self.recount(root);
            (before, root)
        }
    }

    /// The first `count`, and the rest.
    fn split_first(&mut self, root: u32, count: usize) -> (u32, u32) {
        if root == NONE {
            return (NONE, NONE);
        }
        let Node { left, right, .. } = self.nodes[root as usize];
        let before = self.count(left) + 1;
        if before <= count {
            let (first, rest) = self.split_first(right, count - before);
            self.nodes[root as usize].right = first;
            self.recount(root);
            (root, rest)
        } else {
            let (first, rest) = self.split_first(left, count);
            self.nodes[root as usize].left = rest;
            self.recount(root);
            (first, root)
        }
    }

    fn merge(&mut self, left: u32, right: u32) -> u32 {
        if left == NONE {
            return right;
        }
        if right == NONE {
            return left;
        }
        if self.nodes[left as usize].priority > self.nodes[right as usize].priority {
            let below = self.nodes[left as usize].right;
            self.nodes[left as usize].right = self.merge(below, right);
            self.recount(left);
            left
        } else {
            let below = self.nodes[right as usize].left;
            self.nodes[right as usize].left = self.merge(left, below);
            self.recount(right);
            right
        }
    }

    /// Takes out what has this rank.
    pub(super) fn remove(&mut self, rank: Rank) -> Option<T> {
        let (root, found) = self.remove_below(self.root, rank);
        self.root = root;
        self.release(found?)
    }

    fn remove_below(&mut self, root: u32, rank: Rank) -> (u32, Option<u32>) {
        if root == NONE {
            return (NONE, None);
        }
        let Node { left, right, rank: here, .. } = self.nodes[root as usize];
        if here == rank {
            return (self.merge(left, right), Some(root));
        }
        let found = if rank < here {
            let (left, found) = self.remove_below(left, rank);
            self.nodes[root as usize].left = left;
            found
        } else {
            let (right, found) = self.remove_below(right, rank);
            self.nodes[root as usize].right = right;
            found
        };
        self.recount(root);
        (root, found)
    }

    fn release(&mut self, node: u32) -> Option<T> {
        let value = self.nodes[node as usize].value.take();
        self.free.push(node);
        value
    }

    /// Takes out the first `count`, in order.
    pub(super) fn take_first(&mut self, count: usize) -> Vec<T> {
        let (first, rest) = self.split_first(self.root, count);
        self.root = rest;
        let mut taken = Vec::with_capacity(self.count(first));
        let (mut above, mut node) = (Vec::new(), first);
        while node != NONE || !above.is_empty() {
            while node != NONE {
                above.push(node);
                node = self.nodes[node as usize].left;
            }
            let Some(next) = above.pop() else { break };
            node = self.nodes[next as usize].right;
            taken.extend(self.release(next));
        }
        if self.root == NONE {
            // A line that was long once gives its memory back.
            self.nodes.clear();
            self.free.clear();
            self.nodes.shrink_to(64);
            self.free.shrink_to(64);
        }
        taken
    }

    /// The rank of the one before which `position` others are.
    pub(super) fn rank_at(&self, mut position: usize) -> Option<Rank> {
        let mut node = self.root;
        while node != NONE {
            let Node { left, right, rank, .. } = self.nodes[node as usize];
            let before = self.count(left);
            match position.cmp(&before) {
                std::cmp::Ordering::Less => node = left,
                std::cmp::Ordering::Equal => return Some(rank),
                std::cmp::Ordering::Greater => {
                    position -= before + 1;
                    node = right;
                }
            }
        }
        None
    }

    /// What has this rank.
    pub(super) fn get(&self, rank: Rank) -> Option<&T> {
        let mut node = self.root;
        while node != NONE {
            let at = &self.nodes[node as usize];
            node = match rank.cmp(&at.rank) {
                std::cmp::Ordering::Less => at.left,
                std::cmp::Ordering::Equal => return at.value.as_ref(),
                std::cmp::Ordering::Greater => at.right,
            };
        }
        None
    }

    /// The first one's rank.
    pub(super) fn first(&self) -> Option<Rank> {
        self.rank_at(0)
    }

    /// The last one's rank.
    pub(super) fn last(&self) -> Option<Rank> {
        self.rank_at(self.len().checked_sub(1)?)
    }

    /// How many are before `rank`, and their rows.
    pub(super) fn before(&self, rank: Rank) -> (usize, usize) {
        let (mut count, mut rows, mut node) = (0, 0_usize, self.root);
        while node != NONE {
            let Node { left, right, rank: here, rows: own, .. } = self.nodes[node as usize];
            if here < rank {
                count += self.count(left) + 1;
                rows = rows.saturating_add(self.sum(left)).saturating_add(own);
                node = right;
            } else {
                node = left;
            }
        }
        (count, rows)
    }

    /// The rows of the first `count`.
    pub(super) fn rows_of_first(&self, count: usize) -> usize {
        self.rank_at(count).map_or(self.rows(), |rank| self.before(rank).1)
    }

    /// How many of the first have at most `rows` rows together.
    pub(super) fn count_within(&self, mut rows: usize) -> usize {
        let (mut count, mut node) = (0, self.root);
        while node != NONE {
            let Node { left, right, rows: own, .. } = self.nodes[node as usize];
            let before = self.sum(left).saturating_add(own);
            if before <= rows {
                rows -= before;
                count += self.count(left) + 1;
                node = right;
            } else {
                node = left;
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Every answer is compared with that of a sorted list.
    #[test]
    fn it_agrees_with_a_sorted_list() {
        let start = Instant::now();
        for key in [0, 1, 0x5eed] {
            let (mut line, mut list) = (Line::new(key), Vec::<(Rank, usize)>::new());
            let mut state = key ^ 7;
            let mut draw = |most: u64| {
                state = mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15));
                state % most
            };
            for number in 0..3000 {
                let rank = (start + Duration::from_millis(draw(50)), number);
                let rows = usize::try_from(draw(5)).unwrap() + 1;
                line.insert(rank, rows, rank);
                list.insert(list.partition_point(|other| other.0 < rank), (rank, rows));
                if draw(3) == 0 {
                    let (rank, _) = list.remove(usize::try_from(draw(list.len() as u64)).unwrap());
                    assert_eq!(line.remove(rank), Some(rank));
                    assert_eq!(line.remove(rank), None);
                }
                if draw(40) == 0 {
                    let count = usize::try_from(draw(30)).unwrap().min(list.len());
                    let expected: Vec<Rank> = list.drain(..count).map(|(rank, _)| rank).collect();
                    assert_eq!(line.take_first(count), expected);
                }
                let position = usize::try_from(draw(list.len() as u64 + 1)).unwrap();
                let rows = list[..position].iter().map(|&(_, rows)| rows).sum::<usize>();
                assert_eq!((line.len(), line.rows_of_first(position)), (list.len(), rows));
                assert_eq!(line.rank_at(position), list.get(position).map(|&(rank, _)| rank));
                let rank = (start + Duration::from_millis(draw(50)), draw(3000));
                let before = list.iter().filter(|other| other.0 < rank);
                let expected = before.fold((0, 0), |(count, sum), (_, rows)| (count + 1, sum + rows));
                assert_eq!(line.before(rank), expected);
                let most = usize::try_from(draw(100)).unwrap();
                let mut sum = 0;
                let within = list.iter().take_while(|(_, rows)| {
                    sum += rows;
                    sum <= most
                });
                assert_eq!(line.count_within(most), within.count());
                assert_eq!(line.first(), list.first().map(|&(rank, _)| rank));
                assert_eq!(line.last(), list.last().map(|&(rank, _)| rank));
            }
        }
    }
}
