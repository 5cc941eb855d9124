//! A step's segments as a compact blob: a format byte, then five LEB128 numbers a segment.
//!
//! A commit is written for every step of every run, so a few bytes a slot matter; nobody queries inside.

use types::{Segment, SlotId};

const FORMAT: u8 = 1;

/// Slot, turn, start, length, total; lengths are shorter than ends.
pub(super) fn encode(segments: &[Segment]) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    for segment in segments {
        let length = segment.end.checked_sub(segment.start).expect("a segment ends at or after its start");
        for value in [u64::from(segment.slot.0), segment.turn, segment.start, length, segment.total] {
            write(&mut bytes, value);
        }
    }
    bytes
}

/// The inverse of [`encode`]; the error says what is wrong.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<Segment>, String> {
    let Some((&FORMAT, mut rest)) = bytes.split_first() else {
        return Err("unknown format of segments".to_owned());
    };
    let mut segments = Vec::new();
    while !rest.is_empty() {
        let mut values = [0; 5];
        for value in &mut values {
            *value = read(&mut rest).ok_or("segments are cut short")?;
        }
        let [slot, turn, start, length, total] = values;
        segments.push(Segment {
            slot: SlotId(u32::try_from(slot).map_err(|_| "slot beyond 32 bits")?),
            turn,
            start,
            end: start.checked_add(length).ok_or("segment beyond 64 bits")?,
            total,
        });
    }
    Ok(segments)
}

fn write(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn read(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(slot: u32, turn: u64, start: u64, end: u64, total: u64) -> Segment {
        Segment { slot: SlotId(slot), turn, start, end, total }
    }

    #[test]
    fn what_goes_in_comes_out() {
        let cases = [
            vec![],
            vec![segment(0, 0, 0, 0, 0)],
            vec![segment(0, 3, 120, 128, 500), segment(1, 127, 128, 16_384, u64::from(u32::MAX))],
            vec![segment(u32::MAX, u64::MAX, 0, u64::MAX, u64::MAX), segment(7, 1 << 63, u64::MAX, u64::MAX, 1)],
        ];
        for segments in cases {
            assert_eq!(decode(&encode(&segments)), Ok(segments));
        }
    }

    #[test]
    fn a_usual_step_is_small() {
        let segments: Vec<_> = (0..8).map(|slot| segment(slot, 40, 96, 128, 180)).collect();
        assert!(encode(&segments).len() <= 60, "{}", encode(&segments).len());
    }

    #[test]
    fn damage_is_an_error() {
        let good = encode(&[segment(3, 500, 1_000, 2_000, 70_000)]);
        assert!(decode(&[]).is_err());
        assert!(decode(&[9]).is_err());
        for end in 2..good.len() {
            assert!(decode(&good[..end]).is_err(), "cut at {end}");
        }
        assert!(decode(&[&[FORMAT][..], &[0xff; 12]].concat()).is_err());
    }
}
