//! What the kernel tells of a process: the time it has computed for and the memory it has.

use anyhow::{Context, Result};
use std::fs;

/// Seconds on a processor, over all threads that live.
pub fn cpu_seconds(process: u32) -> Result<f64> {
    Ok(threads(process)?.iter().map(|(_, seconds)| seconds).sum())
}

/// The name of each thread that lives, and its seconds on a processor.
pub fn threads(process: u32) -> Result<Vec<(String, f64)>> {
    let tasks = format!("/proc/{process}/task");
    let mut threads = Vec::new();
    for task in fs::read_dir(&tasks).with_context(|| format!("no process {process}"))? {
        let task = task?.path();
        // A thread may end while we read.
        let read = |file: &str| fs::read_to_string(task.join(file));
        let (Ok(name), Ok(text)) = (read("comm"), read("schedstat")) else { continue };
        let nanoseconds = running(&text).with_context(|| format!("{tasks}: `{text}` is no schedstat"))?;
        threads.push((name.trim_end().to_owned(), nanoseconds as f64 / 1e9));
    }
    Ok(threads)
}

/// The first of three numbers: nanoseconds on a processor.
fn running(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

/// In bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    /// Resident now.
    pub resident: u64,
    /// The most that ever was.
    pub peak: u64,
    /// Of what is resident: the process's own.
    pub anonymous: u64,
    /// Of what is resident: pages of files, such as the code of libraries.
    pub file: u64,
}

pub fn memory(process: u32) -> Result<Memory> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("no process {process}"))?;
    memory_of(&text).with_context(|| format!("{path} lacks VmRSS, VmHWM, RssAnon or RssFile"))
}

fn memory_of(status: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
    };
    Some(Memory {
        resident: bytes("VmRSS")?,
        peak: bytes("VmHWM")?,
        anonymous: bytes("RssAnon")?,
        file: bytes("RssFile")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_files_are_understood() {
        let status = "Name:\ttrainer\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\nRssAnon:\t 700 kB\nRssFile:\t 324 kB\n";
        let expected = Memory { resident: 1 << 20, peak: 2 << 20, anonymous: 700 << 10, file: 324 << 10 };
        assert_eq!(memory_of(status), Some(expected));
        assert_eq!(memory_of("VmRSS:\t1 kB\n"), None);
        assert_eq!(running("1234567 89 10\n"), Some(1_234_567));
        assert_eq!(running(""), None);
    }

    #[test]
    fn this_process_computes_and_has_memory() {
        let own = std::process::id();
        assert!(cpu_seconds(own).unwrap() > 0.0);
        let named = std::thread::Builder::new().name("of-this-test".to_owned());
        let told = named.spawn(move || threads(own).unwrap()).unwrap().join().unwrap();
        assert!(told.iter().any(|(name, _)| name == "of-this-test"), "{told:?}");
        let memory = memory(own).unwrap();
        assert!(memory.peak >= memory.resident && memory.resident > 0, "{memory:?}");
        assert!(cpu_seconds(u32::MAX).is_err());
    }
}
