//! A worker: an agent that stays in touch with the coordinator, and a trainer process that it supervises.
//!
//! This room is an IO shell around `trainer`: it moves messages, files and signals, and takes no decisions about runs.
//! The agent's side ([`agent`]) must not call libtorch; everything that does is in [`training`], [`doctor`] and what uses
//! models ([`predict`], [`fill_mask`], [`prompt`], [`embed`], [`export_onnx`]).

pub mod agent;
pub mod cli;
pub mod connect;
pub mod device;
pub mod doctor;
mod downloads;
pub mod embed;
pub mod export_onnx;
pub mod fill_mask;
mod link;
mod loaded;
pub mod predict;
pub mod prompt;
mod source;
pub mod training;
pub mod word2vec;
