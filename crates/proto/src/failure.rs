//! The one mapping from what went wrong to a gRPC status.

use std::fmt;
use tonic::{Code, Status};

/// The kinds of failure that a caller can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The request makes no sense; repeating it will not help.
    Invalid,
    /// No such run, checkpoint, file or key.
    NotFound,
    /// The thing exists, but not in a state that allows this.
    Conflict,
    /// The caller's generation is over: it must stop and wait for a new assignment.
    Fenced,
    /// The caller has not shown the cluster's token.
    Unauthenticated,
    /// Bytes on disk are not what was written.
    Corrupt,
    /// A disk, a queue or a budget is full.
    Full,
    /// A wait ran out.
    Timeout,
    /// Not now; try again.
    Unavailable,
    /// A defect.
    Internal,
}

/// Something that went wrong, for the other side of the wire: what happened, where, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which kind.
    pub kind: FailureKind,
    /// What a person reads.
    pub message: String,
}

impl Failure {
    /// A failure of one kind.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

const CODES: [(FailureKind, Code); 10] = [
    (FailureKind::Invalid, Code::InvalidArgument),
    (FailureKind::NotFound, Code::NotFound),
    (FailureKind::Conflict, Code::FailedPrecondition),
    (FailureKind::Fenced, Code::Aborted),
    (FailureKind::Unauthenticated, Code::Unauthenticated),
    (FailureKind::Corrupt, Code::DataLoss),
    (FailureKind::Full, Code::ResourceExhausted),
    (FailureKind::Timeout, Code::DeadlineExceeded),
    (FailureKind::Unavailable, Code::Unavailable),
    (FailureKind::Internal, Code::Internal),
];

impl From<Failure> for Status {
    fn from(failure: Failure) -> Status {
        let code = CODES.iter().find(|(kind, _)| *kind == failure.kind).map_or(Code::Unknown, |(_, code)| *code);
        Status::new(code, failure.message)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        let found = CODES.iter().find(|(_, code)| *code == status.code());
        let kind = found.map_or(FailureKind::Internal, |(kind, _)| *kind);
        Failure::new(kind, status.message())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        for (kind, _) in CODES {
            let failure = Failure::new(kind, "why");
            assert_eq!(Failure::from(Status::from(failure.clone())), failure);
        }
    }
}
