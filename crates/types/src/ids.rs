//! Identifiers and counters.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A text identifier that is empty, too long, or holds a character that would be unsafe in a path or a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidId(pub String);

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no identifier: use 1 to 64 of a-z A-Z 0-9 . _ -", self.0)
    }
}

impl std::error::Error for InvalidId {}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
                let starts_plain = text.starts_with(|c: char| c.is_ascii_alphanumeric());
                if text.len() <= 64 && starts_plain && text.chars().all(valid) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidId(text.to_owned()))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// One experiment. Time-ordered (UUID v7), made by the coordinator.
    RunId
);
text_id!(
    /// One agent process: the name it was given, or host and process number. A restart is a new worker.
    WorkerId
);

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident($repr:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
        )]
        #[serde(transparent)]
        pub struct $name(pub $repr);

        impl $name {
            /// The value after this one. Panics on overflow: these counters never wrap.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("counter overflow"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// A membership epoch of a run. It only grows and is kept durably; every message that could do harm carries it.
    Generation(u64)
);
counter!(
    /// Optimizer steps done: `Step(0)` is the initial model, `Step(n)` the model after n steps.
    Step(u64)
);
counter!(
    /// What metrics are keyed by beside the step: rewinding to a checkpoint starts a new attempt.
    Attempt(u32)
);
counter!(
    /// One of the V fixed virtual shards of the global batch.
    SlotId(u32)
);
counter!(
    /// A worker's place in its generation, from 0.
    Rank(u32)
);
counter!(
    /// How many workers a generation has.
    WorldSize(u32)
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_refuse_what_could_leave_a_folder() {
        for bad in ["", "..", ".hidden", "a/b", "a b", "é", &"x".repeat(65)] {
            assert!(bad.parse::<RunId>().is_err(), "{bad}");
        }
        assert_eq!("run-1.a_B".parse::<RunId>().map(String::from), Ok("run-1.a_B".to_owned()));
    }
}
