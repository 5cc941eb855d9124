//! What tensors leave in memory. Without Rust's test harness, which runs tests in threads: malloc has another heap for those,
//! and the trainer's steps are the main thread's.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test, which no attribute tells clippy")]

use kernels::{keep_freed_memory, return_freed_memory};
use std::{env, fs};
use tch::{Device, Kind, Tensor};

const NAME: &str = "what_a_tensor_leaves_is_the_next_ones_until_it_is_given_back";
/// Together more than malloc keeps by itself.
const TENSORS: u64 = 6;
const MEBIBYTES: u64 = 24;

/// As the harness does where nextest asks: names the only test, or runs it, whatever else is asked for.
fn main() {
    let asked = |option: &str| env::args().any(|argument| argument == option);
    if !cfg!(all(target_os = "linux", target_env = "gnu")) || asked("--ignored") {
        return;
    }
    if asked("--list") {
        println!("{NAME}: test");
        return;
    }
    for name in ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"] {
        assert!(env::var_os(name).is_none(), "unset {name}: this is about malloc as it comes");
    }
    what_a_tensor_leaves_is_the_next_ones_until_it_is_given_back();
}

/// Tensors that are written to, and gone.
fn tensors() {
    let tensor = |_| Tensor::ones([(MEBIBYTES << 20) as i64], (Kind::Uint8, Device::Cpu));
    drop((0..TENSORS).map(tensor).collect::<Vec<_>>());
}

/// How often this process got a page from the system.
fn faults() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    // After the name, which ends with a parenthesis, from the state on.
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(7).unwrap().parse().unwrap()
}

/// What it has, in MiB: `RssAnon` is memory of its own, `VmData` the addresses of such.
fn mebibytes_of(what: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn what_a_tensor_leaves_is_the_next_ones_until_it_is_given_back() {
    keep_freed_memory();
    tensors();
    let (before, held) = (faults(), mebibytes_of("RssAnon:"));
    tensors();
    let (found, all) = (faults() - before, TENSORS * MEBIBYTES * 256);
    assert!(found < all / 10, "{found} pages of {all} came from the system");

    // Also of a large model: 2.7 GiB that nobody writes to, of which some were free before. Pieces of 27 MiB, since glibc
    // before 2.35 takes larger ones from the system each time.
    let before = mebibytes_of("VmData:");
    drop((0..100).map(|_| Tensor::empty([27 << 20], (Kind::Uint8, Device::Cpu))).collect::<Vec<_>>());
    let kept = mebibytes_of("VmData:").saturating_sub(before);
    assert!(kept > 2048, "{kept} of 2700 MiB were kept");

    return_freed_memory();
    let returned = held.saturating_sub(mebibytes_of("RssAnon:"));
    assert!(returned > TENSORS * MEBIBYTES * 9 / 10, "{returned} MiB were given back");
}
