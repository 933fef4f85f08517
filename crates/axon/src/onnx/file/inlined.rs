//! Counts the nodes that a model has once its functions are put in the place of their calls, without doing so.
//!
//! A function that calls another twice, which calls another twice, doubles with each: a file of a kilobyte can stand
//! for any number of nodes. Each body is counted once and its count is used for every call, so that the work grows with
//! the file.

use std::collections::{BTreeMap, BTreeSet};

use super::reader::Problem;
use super::refused;
use crate::error::Echo;

/// The most nodes of a file, and of what its functions make of it. **Source:** robustness.md §5, "Models"; the largest
/// exported models have tens of thousands.
pub(super) const MAX_NODES: u64 = 1_000_000;

/// The nodes that functions may make of any file, however small. **Source:** ONNX Runtime's time for doubling functions
/// grows with the square of the nodes: 16,384 take it 2.2 s, 65,536 take 35 s (robustness.md, B-114).
const FREE_NODES: u64 = 8_192;

/// Past that, the nodes that functions may make of each node of the file: an exporter's functions have ten to thirty.
const MAX_GROWTH: u64 = 64;

/// A function's domain, name and overload.
pub(super) type Callee = (Vec<u8>, Vec<u8>, Vec<u8>);

/// The nodes of one body, those of its subgraphs included.
#[derive(Default)]
struct Body {
    nodes: u64,
    /// How often each operator is called, by its number.
    calls: BTreeMap<usize, u64>,
}

/// The bodies of a file: the graph's and each function's.
#[derive(Default)]
pub(super) struct Bodies {
    operators: BTreeMap<Callee, usize>,
    graph: Body,
    /// By the number of the operator that it defines.
    functions: BTreeMap<usize, Body>,
    /// What is being read, until it is known what it is named.
    open: Body,
    nodes: u64,
}

impl Bodies {
    /// A node of the body that is being read, or of a subgraph in it.
    pub fn node(&mut self, operator: Callee) -> Result<(), Problem> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(refused("graph", format_args!("expected at most {MAX_NODES} nodes, got more")));
        }
        let number = self.number(operator);
        self.open.nodes += 1;
        *self.open.calls.entry(number).or_default() += 1;
        Ok(())
    }

    /// What has been read since is the graph's.
    pub fn end_graph(&mut self) {
        self.graph = std::mem::take(&mut self.open);
    }

    /// What has been read since is the function's.
    pub fn end_function(&mut self, name: Callee) -> Result<(), Problem> {
        let place = place(&name);
        let number = self.number(name);
        let body = std::mem::take(&mut self.open);
        match self.functions.insert(number, body) {
            None => Ok(()),
            Some(_) => Err(refused(&place, "expected one function of this name, got two")),
        }
    }

    fn number(&mut self, operator: Callee) -> usize {
        let next = self.operators.len();
        *self.operators.entry(operator).or_insert(next)
    }

    /// The nodes after inlining.
    ///
    /// # Errors
    /// When a function calls itself, or when they are too many for the file.
    pub fn count(&self) -> Result<u64, Problem> {
        let mut counts: BTreeMap<usize, u64> = BTreeMap::new();
        for &function in self.functions.keys() {
            self.count_function(function, &mut counts)?;
        }
        let total = self.total(&self.graph, &counts);
        let most = FREE_NODES.max(self.nodes.saturating_mul(MAX_GROWTH)).min(MAX_NODES);
        // A function that nothing calls is read and inlined by nobody, but a file of them is not a model either.
        let total = counts.values().fold(total, |most, &count| most.max(count)).max(self.nodes);
        if total > most.max(self.nodes) {
            return Err(refused(
                "functions",
                format_args!(
                    "expected at most {most} nodes after inlining for {} in the file, got {total}",
                    self.nodes
                ),
            ));
        }
        Ok(total)
    }

    /// Enters the count of a function and of all that it calls; the stack is a list, since its depth is the file's choice.
    fn count_function(&self, function: usize, counts: &mut BTreeMap<usize, u64>) -> Result<(), Problem> {
        let mut stack = vec![(function, self.callees(function))];
        let mut open = BTreeSet::from([function]);
        while let Some((function, callees)) = stack.last_mut() {
            let function = *function;
            match callees.pop() {
                Some(callee) if counts.contains_key(&callee) => {}
                Some(callee) if !open.insert(callee) => {
                    let name = self.operators.iter().find(|(_, number)| **number == callee);
                    let place = name.map_or_else(|| "functions".to_owned(), |(name, _)| place(name));
                    return Err(refused(&place, "a function calls itself, directly or through others"));
                }
                Some(callee) => stack.push((callee, self.callees(callee))),
                None => {
                    let body = self.functions.get(&function);
                    counts.insert(function, body.map_or(0, |body| self.total(body, counts)));
                    open.remove(&function);
                    stack.pop();
                }
            }
        }
        Ok(())
    }

    /// The functions of the file that a function calls.
    fn callees(&self, function: usize) -> Vec<usize> {
        let calls = self.functions.get(&function).into_iter().flat_map(|body| body.calls.keys());
        calls.copied().filter(|callee| self.functions.contains_key(callee)).collect()
    }

    fn total(&self, body: &Body, counts: &BTreeMap<usize, u64>) -> u64 {
        let calls = body.calls.iter().filter(|(callee, _)| self.functions.contains_key(callee));
        let inlined =
            calls.map(|(callee, &times)| counts.get(callee).copied().unwrap_or(0).saturating_mul(times));
        inlined.fold(body.nodes, u64::saturating_add)
    }
}

fn place(name: &Callee) -> String {
    format!("functions[{}]", Echo(&String::from_utf8_lossy(&name.1)))
}
