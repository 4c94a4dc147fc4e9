//! Timers that CRIU would restore stopped: periodic timerfds that had expired and were not read when the pod was frozen.
//!
//! Of such a timer the kernel says that nothing remains (`it_value` 0 in `/proc/PID/fdinfo`, fs/timerfd.c: it goes on when it is read), CRIU notes that, and
//! `timerfd_settime` with 0 disarms: after its next read the timer never fires again. One nanosecond is as good as none, and arms. In the image the number
//! has the same length, one byte, so that nothing else moves:
//!
//! ```text
//!   files.img: magic, { length, file_entry { type = TIMERFD, tfd = timerfd_entry { … vsec 0, vnsec 0, interval > 0 } } }…
//!                                                                                             └▶ 1
//! ```

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::wire::{Fields, Value};
use crate::Problem;

/// The image of open files.
const FILE: &str = "files.img";
/// Length of its magic.
const HEAD: usize = 8;
/// `file_entry.tfd` (fdinfo.proto).
const TFD: u64 = 12;
/// `vsec`, `vnsec`, `isec`, `insec` of `timerfd_entry` (timerfd.proto).
const VSEC: u64 = 7;
const VNSEC: u64 = 8;
const ISEC: u64 = 9;
const INSEC: u64 = 10;

/// Arms the expired periodic timers in a directory of verified images; gives their number. A second time there is none left.
///
/// # Errors
/// When the image cannot be read or changed.
pub fn rearm(directory: &Path) -> Result<usize, Problem> {
    let path = directory.join(FILE);
    let bytes = fs::read(&path).map_err(Problem::read(&path))?;
    let places = expired(&bytes);
    if places.is_empty() {
        return Ok(0);
    }
    let file = OpenOptions::new().write(true).open(&path).map_err(Problem::read(&path))?;
    for place in &places {
        file.write_all_at(&[1], *place as u64).map_err(Problem::read(&path))?;
    }
    Ok(places.len())
}

/// Where in the image the `vnsec` of each expired periodic timer is: one byte, 0.
fn expired(image: &[u8]) -> Vec<usize> {
    let mut places = Vec::new();
    let mut at = HEAD;
    while let Some((head, rest)) = image.get(at..).and_then(<[u8]>::split_first_chunk::<4>) {
        let length = u32::from_le_bytes(*head) as usize;
        let Some(entry) = rest.get(..length) else { break };
        at += head.len();
        if let Some((offset, timer)) = place(entry, TFD)
            && let Some(inner) = vnsec(timer)
        {
            places.push(at + offset + inner);
        }
        at += length;
    }
    places
}

/// Where the `vnsec` of a timer is, if the timer is periodic and nothing of it remains.
fn vnsec(timer: &[u8]) -> Option<usize> {
    let of = |field| match last(timer, field) {
        Some(Value::Number(value)) => value,
        _ => 0,
    };
    let is_expired = of(VSEC) == 0 && of(VNSEC) == 0 && (of(ISEC) != 0 || of(INSEC) != 0);
    place(timer, VNSEC).filter(|(_, value)| is_expired && *value == [0]).map(|(offset, _)| offset)
}

fn last(message: &[u8], field: u64) -> Option<Value<'_>> {
    Fields(message).filter(|found| found.number == field).last().map(|found| found.value)
}

/// Where the bytes of a field's last value are in a message, and these bytes: of a number its own encoding, of a string or message without its length.
fn place(message: &[u8], field: u64) -> Option<(usize, &[u8])> {
    let (mut at, mut found) = (0, None);
    for candidate in Fields(message) {
        let end = at + candidate.all.len();
        if candidate.number == field {
            // The key of a number: as many bytes as have their highest bit set, and one more.
            let key = candidate.all.iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
            let start = if let Value::Bytes(bytes) = candidate.value { end - bytes.len() } else { at + key };
            found = message.get(start..end).map(|bytes| (start, bytes));
        }
        at = end;
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn timer(vnsec: &[u8], insec: u8) -> Vec<u8> {
        let mut timer = vec![0x08, 5, 0x10, 0, 0x1a, 2, 0x08, 0, 0x20, 1, 0x28, 3, 0x30, 0, 0x38, 0, 0x40];
        timer.extend(vnsec);
        timer.extend([0x48, 0, 0x50, insec]);
        timer
    }

    fn image(timers: &[Vec<u8>]) -> Vec<u8> {
        let mut image = vec![0; HEAD];
        for timer in timers {
            let mut entry = vec![0x08, 17, 0x10, 5, 0x62, u8::try_from(timer.len()).unwrap()];
            entry.extend(timer);
            image.extend(u32::try_from(entry.len()).unwrap().to_le_bytes());
            image.extend(entry);
        }
        image
    }

    #[test]
    fn values_are_found_in_place() {
        let message = [0x08, 0x96, 0x01, 0x12, 2, b'h', b'i', 0x18, 1, 0x18, 2];
        assert_eq!(place(&message, 1), Some((1, [0x96, 0x01].as_slice())));
        assert_eq!(place(&message, 2), Some((5, b"hi".as_slice())));
        assert_eq!(place(&message, 3), Some((10, [2].as_slice())));
        assert_eq!(place(&message, 4), None);
        assert_eq!(place(&message[..2], 1), None);
    }

    #[test]
    fn only_expired_periodic_timers_are_armed() {
        let directory = tempfile::tempdir().unwrap();
        let (expired, running, once) = (timer(&[0], 20), timer(&[0x80, 0x01], 20), timer(&[0], 0));
        let path = directory.path().join(FILE);
        fs::write(&path, image(&[expired.clone(), running.clone(), once.clone(), expired])).unwrap();
        assert_eq!(rearm(directory.path()).unwrap(), 2);
        let armed = timer(&[1], 20);
        assert_eq!(fs::read(&path).unwrap(), image(&[armed.clone(), running, once, armed]));
        assert_eq!(rearm(directory.path()).unwrap(), 0);
    }

    #[test]
    fn what_is_cut_off_is_left_alone() {
        let whole = image(&[timer(&[0], 20)]);
        for length in 0..whole.len() {
            assert!(expired(&whole[..length]).is_empty(), "{length}");
        }
    }
}
