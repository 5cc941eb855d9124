//! What is said of runs that wait.

use crate::desk::{Desk, run};
use types::RunId;

#[test]
fn one_is_told_as_one() {
    let mut desk = Desk::with_run(1, 1);
    let others: [RunId; 2] = ["next", "last"].map(|name| name.parse().unwrap());
    others.iter().for_each(|other| desk.submit(other, 1, 1));
    let waiting_for = |desk: &Desk, run: &RunId| desk.control.waiting_for(run).unwrap();
    assert_eq!(waiting_for(&desk, &run()), "it needs 1 worker and 0 are free");
    assert_eq!(waiting_for(&desk, &others[0]), "1 run is ahead of it in the queue");
    assert_eq!(waiting_for(&desk, &others[1]), "2 runs are ahead of it in the queue");
    desk.connect("a", 1, None);
    assert!(desk.notes(0).iter().any(|note| note == "generation 1: 1 worker: a"), "{:?}", desk.notes(0));
}
