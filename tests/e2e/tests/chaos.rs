//! A few faults on real processes from one seed. `cargo xtask chaos` does many.

#![allow(clippy::print_stderr)] // the report is for whoever reads the test's output

use e2e::Network;
use e2e::chaos::{self, Kind, Options};
use e2e::seed;

#[track_caller]
fn loses_nothing(name: &str, kinds: &[Kind], faults: usize, network: Option<Network>) {
    let options =
        Options { seed: seed(name), workers: 3, kinds: kinds.to_vec(), faults: Some(faults), time: None, tell: true };
    let report = chaos::run(&options, network);
    eprintln!("{report}");
    assert!(report.ok, "{report}");
    assert_eq!(report.faults, faults);
    assert_eq!(report.attempts, 1, "nothing was read back from a checkpoint");
}

#[test]
fn random_faults_lose_nothing_and_change_nothing() {
    loses_nothing("random_faults_lose_nothing_and_change_nothing", &Kind::ON_LOOPBACK, 3, None);
}

#[test]
fn pulled_cables_lose_nothing_and_change_nothing() {
    match Network::create() {
        Ok(network) => {
            let kinds = [Kind::LinkDown, Kind::LinkFlickers];
            loses_nothing("pulled_cables_lose_nothing_and_change_nothing", &kinds, 2, Some(network));
        }
        Err(why) => eprintln!("skipped: this machine allows no network namespaces: {why}"),
    }
}
