//! Places in a request, as errors name them.

use std::fmt;

use axon::error::{Error, ErrorKind};

/// A place in a request, as `inputs[3].shape`. The members are the protocol's own, never the caller's text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    entry: Option<(&'static str, usize)>,
    member: &'static str,
}

impl Field {
    /// The whole body.
    pub const BODY: Self = Self::top("body");

    /// A member of the request itself.
    pub const fn top(member: &'static str) -> Self {
        Self { entry: None, member }
    }

    /// A member of an input; the input itself when `member` is empty.
    pub const fn input(index: usize, member: &'static str) -> Self {
        Self { entry: Some(("inputs", index)), member }
    }

    /// A member of an output.
    pub const fn output(index: usize, member: &'static str) -> Self {
        Self { entry: Some(("outputs", index)), member }
    }

    /// The request is wrong here.
    pub fn invalid(self, problem: impl fmt::Display) -> Error {
        Error::invalid(self.to_string(), problem)
    }

    /// An error of `kind` here.
    pub fn error(self, kind: ErrorKind, problem: impl fmt::Display) -> Error {
        Error::at(kind, self.to_string(), problem)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((list, index)) = self.entry else { return f.write_str(self.member) };
        write!(f, "{list}[{index}]")?;
        if self.member.is_empty() { Ok(()) } else { write!(f, ".{}", self.member) }
    }
}
