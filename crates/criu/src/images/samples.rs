//! Some pages of each process, out of the images: to be compared with what was restored.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::memory::{PAGE, Run, rebuilt};
use super::{Process, Set};
use crate::Problem;

/// Most pages of all processes together, and of one.
const ALL: u64 = 64;
const OF_ONE: u64 = 16;

/// A page that is in the images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Whose, in its own pid namespace.
    pub pid: i32,
    /// Where.
    pub address: u64,
    /// What is in it: [`PAGE`] bytes.
    pub content: Box<[u8]>,
}

/// Takes pages from all over the memory of each process that is alive, but for what CRIU makes anew. With many processes some are left out.
pub fn take(directory: &Path, set: &Set, processes: &[Process]) -> Result<Vec<Sample>, Problem> {
    let alive: Vec<&Process> = processes.iter().filter(|process| process.alive).collect();
    let each = (ALL / u64::try_from(alive.len()).unwrap_or(u64::MAX).max(1)).clamp(1, OF_ONE);
    let mut samples = Vec::new();
    for process in alive.into_iter().take(usize::try_from(ALL).unwrap_or(usize::MAX)) {
        let image = set.image(&format!("pagemap-{}.img", process.pid))?;
        let Some(id) = image.first().and_then(|head| head.number("pages_id")) else { continue };
        let runs: Vec<Run> = image.views().skip(1).filter_map(|entry| Run::of(&entry).ok()).filter(|run| run.present).collect();
        let rebuilt = rebuilt(set, process.pid)?;
        let mut places = places(&runs, each);
        places.retain(|(_, address)| !rebuilt.iter().any(|(start, end)| (*start..*end).contains(address)));
        if places.is_empty() {
            continue;
        }
        let path = directory.join(format!("pages-{id}.img"));
        let file = File::open(&path).map_err(Problem::read(&path))?;
        for (at, address) in places {
            let mut content = vec![0; usize::try_from(PAGE).unwrap_or_default()].into_boxed_slice();
            file.read_exact_at(&mut content, at * PAGE).map_err(Problem::read(&path))?;
            samples.push(Sample { pid: process.pid, address, content });
        }
    }
    Ok(samples)
}

/// So many pages, evenly spread: the number of each in the pages file, and its address.
fn places(runs: &[Run], wanted: u64) -> Vec<(u64, u64)> {
    let total: u64 = runs.iter().map(|run| run.count).sum();
    let wanted = wanted.min(total);
    let (mut found, mut before) = (Vec::new(), 0);
    let mut numbers = (0..wanted).map(|number| number * total / wanted).peekable();
    for run in runs {
        while let Some(number) = numbers.next_if(|number| *number < before + run.count) {
            found.push((number, run.start + (number - before) * PAGE));
        }
        before += run.count;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_come_from_everywhere() {
        let run = |start, count| Run { start, count, present: true, lazy: false };
        let runs = [run(0x1000, 2), run(0x10000, 6)];
        assert_eq!(places(&runs, 4), [(0, 0x1000), (2, 0x10000), (4, 0x12000), (6, 0x14000)]);
        assert_eq!(places(&runs, 100).len(), 8);
        assert_eq!(places(&runs, 1), [(0, 0x1000)]);
        assert!(places(&[], 4).is_empty());
    }
}
