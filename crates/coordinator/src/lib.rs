//! The coordinator: a thin IO shell around `control`, `store` and `corpus`, and the command line that talks to it.
//!
//! [`server`] holds no decision about runs: what happens is told to `control`, what that decides is carried out.
//! [`cli`] is a client of a running coordinator; it knows the wire, not the server. Nothing here may need libtorch.

mod auth;
pub mod cli;
pub mod data_dir;
pub mod server;
mod weights;
