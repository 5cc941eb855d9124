//! Conversions between the wire's plain fields and the newtypes of `types`.

use crate::v1;
use crate::{Failure, FailureKind};
use types::{Digest, Segment, SlotId};

impl From<Segment> for v1::Segment {
    fn from(segment: Segment) -> Self {
        let Segment { slot, turn, start, end, total } = segment;
        Self { slot: slot.0, turn, start, end, total }
    }
}

impl From<v1::Segment> for Segment {
    fn from(segment: v1::Segment) -> Self {
        let v1::Segment { slot, turn, start, end, total } = segment;
        Self { slot: SlotId(slot), turn, start, end, total }
    }
}

/// A digest from its 32 bytes on the wire; empty bytes mean none.
pub fn digest(bytes: &[u8]) -> Result<Option<Digest>, Failure> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let array = bytes.try_into();
    array
        .map(|array| Some(Digest(array)))
        .map_err(|_| Failure::new(FailureKind::Invalid, format!("a digest of {} bytes; it must have 32", bytes.len())))
}
