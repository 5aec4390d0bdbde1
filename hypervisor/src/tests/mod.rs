//! Tests of the portable core: its system calls, on CPUs and in a time that the test controls.

mod capabilities;
mod cyclic;
mod foreign;
mod ipc;
mod lifetime;
mod migration;
mod model;
mod scheduling;
mod signals;
mod vcpu;
mod world;

pub use world::{Object, Running};
