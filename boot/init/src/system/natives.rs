//! Native programs.
use super::{Kind, Part, Supervisor};
use crate::draft::Draft;
use crate::root::Result;
use alloc::string::String;
use alloc::vec::Vec;
use image::system::Native;
use rt::env::{NativeEnvironment, Role};

impl Supervisor {
    pub(super) fn start_native(&mut self, number: usize) {
        let native = self.system.natives[number].clone();
        if let Err(failure) = self.try_start_native(number, &native) {
            log::error!("{} does not start: {failure}", native.name);
            self.natives_stopped += 1;
        }
    }

    fn try_start_native(&mut self, number: usize, native: &Native) -> Result {
        let id = self.next_id();
        let name = native.name.as_str();
        let compartment = &native.compartment;
        let draft = Draft::new(&mut self.root, id, name, compartment, &[])?;
        let args = native.args.as_str().split_whitespace().map(String::from).collect();
        let space = draft.space();
        let role = Role::Native(NativeEnvironment { args });
        let remains = draft.start(&mut self.root, role)?;
        self.started(name, "program", compartment.memory.bytes(), compartment.cpu.number());
        let part = Part {
            id,
            kind: Kind::Native(number),
            name: name.into(),
            space,
            remains,
            ready: true,
            exports: Vec::new(),
            signals: Vec::new(),
            fault_at: None,
        };
        self.add(part, compartment.fault_after_ms);
        Ok(())
    }
}
