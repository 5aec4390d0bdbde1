//! The command as a user meets it, without a machine: stand-ins take the place of emulators and package tools.

mod bad_input;
mod interrupted;
mod support;
