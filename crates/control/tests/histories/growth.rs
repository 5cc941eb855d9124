//! Workers that come while a run is under way.

use crate::desk::{Desk, assigned, run, sent};
use control::{Directive, Effect};
use types::Generation;

fn pause(generation: u64) -> Directive {
    Directive::Request { run: run(), generation: Generation(generation), checkpoint: false, pause: true }
}

#[test]
fn those_who_come_together_join_together() {
    let mut desk = Desk::with_run(1, 4);
    desk.connect("a", 1, None);
    assert_eq!(desk.connect("b", 2, None), []);
    desk.wait(400);
    assert_eq!(desk.connect("c", 3, None), []);
    assert_eq!(desk.wait(499), []);
    assert_eq!(sent(&desk.wait(1), "a"), [pause(1)]);
    assert_eq!(assigned(&desk.paused("a", 1, 0)).len(), 3);
}

#[test]
fn the_first_does_not_wait_for_ever() {
    let mut desk = Desk::with_long_run(1, 64, 64, 9);
    desk.connect("w0", 1, None);
    let mut asked = None;
    for number in 1..20 {
        let effects = desk.connect(&format!("w{number}"), 1 + number, None);
        let effects: Vec<Effect> = effects.into_iter().chain(desk.wait(400)).collect();
        if asked.is_none() && !sent(&effects, "w0").is_empty() {
            asked = Some(desk.now.0);
        }
    }
    assert_eq!(asked, Some(2000));
}

#[test]
fn a_run_is_not_interrupted_again_and_again() {
    let mut desk = Desk::with_run(1, 4);
    desk.connect("a", 1, None);
    desk.connect("b", 2, None);
    desk.wait(500);
    assert_eq!(assigned(&desk.paused("a", 1, 0)).len(), 2);
    desk.wait(100);
    desk.connect("c", 3, None);
    assert_eq!(desk.wait(4_899), []);
    assert_eq!(sent(&desk.wait(1), "a"), [pause(2)]);
}

#[test]
fn one_that_goes_again_is_not_waited_for() {
    let mut desk = Desk::with_run(1, 4);
    desk.connect("a", 1, None);
    desk.connect("b", 2, None);
    desk.disconnect("b", 2);
    assert_eq!(desk.wait(10_000), []);
    assert_eq!(desk.control.poll_timeout(), None);
}
