//! Tests of the portable core: its system calls, on CPUs and in a time that the test controls.

mod caching;
mod capabilities;
mod device_spaces;
mod doorbells;
mod foreign;
mod ipc;
mod lifetime;
mod model;
mod quota;
mod scheduling;
mod shootdown;
mod signals;
mod vcpu;
mod world;

pub use world::{Object, Running};
