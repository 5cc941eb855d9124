//! A seeded simulator: the real `control`, with a model of workers, links, trainers and a disk around it.
//!
//! One seed is one history: messages are delayed, links break, processes die and come back, people cancel and resume.
//! Then the faults stop, and every run has to reach its end. [`check::Ledger`] watches what becomes durable on the way.
//! Nothing here may depend on anything but the seed.

mod check;
mod data;
mod disk;
mod ending;
mod faults;
mod group;
mod node;
mod world;

pub use world::{Outcome, Planted, simulate, simulate_planted};
