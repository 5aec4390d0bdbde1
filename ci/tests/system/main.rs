//! Boots real images on emulators and checks what a user would see.

#[macro_use]
mod targets;

mod bundles;
mod consoles;
mod direct;
mod endings;
mod exits;
mod failures;
mod figures;
mod guest;
mod hostile;
mod kernels;
mod latency;
mod registers;
mod samples;
mod shares;
mod sizes;
mod throughput;
mod vcpus;
