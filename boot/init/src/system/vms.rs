//! VMs: their RAM, their monitors' environments, and what starts them again.
use super::{Kind, Monitor, Part, Supervisor, cpus};
use crate::arch;
use crate::draft::Draft;
use crate::guest_ram;
use crate::root::{Doing, Failure, Result};
use abi::boot::ROOT_MEMORY;
use abi::{Badge, Rights, Selector};
use alloc::string::ToString;
use alloc::vec::Vec;
use image::system::Vm;
use rt::env::{
    GicEnvironment, GuestMemory, MonitorEnvironment, PortalOnCpu, Role, SerialEnvironment,
    VcpuEnvironment, register_key,
};
use rt::syscall;

/// Bytes of GICv2's virtual CPU interface.
const GICV: u64 = 8 << 10;
/// Alignment of guest RAM, for large pages.
const LARGE: u64 = 2 << 20;

impl Supervisor {
    /// RAM at fixed addresses first, then the rest.
    pub(super) fn take_guest_ram(&mut self) {
        for fixed in [true, false] {
            for (vm, state) in self.system.vms.iter().zip(&mut self.vms) {
                if vm.memory_at.is_some() != fixed {
                    continue;
                }
                let size = vm.memory.bytes();
                let chunks = match vm.memory_at {
                    Some(at) => self.root.frames.take_at(at.raw(), size).map(|c| Vec::from([c])),
                    None => self.root.frames.take_pieces(size, LARGE),
                };
                match chunks {
                    Some(chunks) => state.ram = chunks,
                    None => {
                        let size = size >> 20;
                        match vm.memory_at {
                            Some(at) => log::error!(
                                "{} cannot have its {size} MiB of RAM at {:#x}: hypervisor, bundle or firmware lie there",
                                vm.name,
                                at.raw()
                            ),
                            None => log::error!(
                                "{} cannot have its {size} MiB of RAM: {} MiB are left",
                                vm.name,
                                self.root.frames.available() >> 20
                            ),
                        }
                        state.stopped = true;
                    }
                }
            }
        }
    }

    pub(super) fn draft_vm(&mut self, number: usize) -> Option<Monitor> {
        let vm = self.system.vms[number].clone();
        let id = self.next_id();
        let cpus = cpus(&vm);
        let drafted = Draft::new(&mut self.root, id, vm.name.as_str(), &vm.monitor, &cpus);
        let drafted = drafted.and_then(|mut draft| match self.make_vcpus(&mut draft, &vm) {
            Ok((vcpus, kick)) => Ok(Monitor { draft, vcpus, kick }),
            Err(failure) => {
                draft.abandon(&mut self.root);
                Err(failure)
            }
        });
        drafted.map_err(|failure| self.vm_failed(number, &failure)).ok()
    }

    fn vm_failed(&mut self, number: usize, failure: &Failure) {
        log::error!("{} does not start: {failure}", self.system.vms[number].name);
        self.vms[number].stopped = true;
    }

    fn make_vcpus(
        &mut self,
        draft: &mut Draft,
        vm: &Vm,
    ) -> Result<(Vec<VcpuEnvironment>, Selector)> {
        let mut vcpus = Vec::new();
        let mut first = Selector::NULL;
        for cpu in vm.vcpus.as_slice() {
            let cpu = cpu.number();
            let sched = draft.make_sched(&mut self.root, cpu)?;
            let sched = draft.give(sched, Rights::CONTROL)?;
            let (own, kick) = draft.make_notification(&mut self.root)?;
            if vcpus.is_empty() {
                first = own;
            }
            vcpus.push(VcpuEnvironment { cpu, sched, kick });
        }
        Ok((vcpus, first))
    }

    pub(super) fn start_vm(&mut self, number: usize, monitor: Monitor) {
        let vm = self.system.vms[number].clone();
        let Monitor { mut draft, vcpus, .. } = monitor;
        let role = match self.monitor_role(number, &vm, &mut draft, vcpus) {
            Ok(role) => role,
            Err(failure) => {
                draft.abandon(&mut self.root);
                return self.vm_failed(number, &failure);
            }
        };
        let (id, space) = (draft.id, draft.space());
        let remains = match draft.start(&mut self.root, Role::Monitor(role)) {
            Ok(remains) => remains,
            Err(failure) => return self.vm_failed(number, &failure),
        };
        self.started(vm.name.as_str(), "VM", vm.memory.bytes(), vm.monitor.cpu.number());
        let part = Part {
            id,
            kind: Kind::Vm(number),
            name: vm.name.to_string(),
            space,
            remains,
            ready: true,
            exports: Vec::new(),
            signals: Vec::new(),
            fault_at: None,
        };
        self.add(part, vm.monitor.fault_after_ms);
    }

    fn monitor_role(
        &mut self,
        number: usize,
        vm: &Vm,
        draft: &mut Draft,
        vcpus: Vec<VcpuEnvironment>,
    ) -> Result<MonitorEnvironment> {
        let mut memory = Vec::new();
        for part in guest_ram::lay_out(&self.vms[number].ram, &arch::GUEST_RAM) {
            let (chunk, guest_address) = (part.chunk, part.guest_address);
            let ram = ROOT_MEMORY.offset(chunk.region);
            let rights = Rights::RW | Rights::EXEC;
            let selector = draft.give_memory(ram, rights, chunk.offset, chunk.size)?;
            memory.push(GuestMemory { selector, guest_address, size: chunk.size });
        }
        let kernel = draft.map_file(&mut self.root, &vm.kernel)?;
        let initrd = match &vm.initrd {
            Some(initrd) => Some(draft.map_file(&mut self.root, initrd)?),
            None => None,
        };
        let mut portals = Vec::new();
        if let Some((server, client)) = self.console_of(number) {
            for export in server.exports.iter().filter(|e| e.client as usize == client) {
                let portal = draft.give(export.portal, Rights::CALL)?;
                portals.push(PortalOnCpu { cpu: export.cpu, portal });
            }
        }
        let console = (!portals.is_empty()).then_some(SerialEnvironment {
            portals,
            address: vm.serial.address,
            line: vm.serial.line,
        });
        Ok(MonitorEnvironment {
            memory,
            kernel,
            initrd,
            cmdline: vm.cmdline.as_str().into(),
            vcpus,
            console,
            virtualization: self.root.info.virtualization,
            xcr0_mask: self.root.info.xcr0_mask,
            gic: self.gic(draft)?,
            id_registers: self.id_registers(),
            workarounds: self.root.info.workarounds,
        })
    }

    /// The interrupt controller's part for guests, where the processor has one.
    fn gic(&self, draft: &mut Draft) -> Result<Option<GicEnvironment>> {
        let info = &self.root.info;
        if info.gic_version == 0 {
            return Ok(None);
        }
        let vcpu_interface = match info.gic_vcpu_interface {
            0 => None,
            address => {
                let (memory, offset) = self.root.device(address, GICV)?;
                Some(draft.give_memory(memory, Rights::RW, offset, GICV)?)
            }
        };
        Ok(Some(GicEnvironment {
            version: info.gic_version,
            list_registers: info.list_registers,
            vcpu_interface,
        }))
    }

    /// The processor's identification registers that are there.
    fn id_registers(&self) -> Vec<(u16, u64)> {
        let all = (0..).zip(self.root.info.id_registers);
        all.filter(|&(_, value)| value != 0)
            .map(|(index, value)| (register_key(3, 0, 0, index / 8, index % 8), value))
            .collect()
    }

    /// Starts a VM again that has run before.
    pub(super) fn restart_vm(&mut self, number: usize) {
        let Some(monitor) = self.draft_vm(number) else {
            return;
        };
        if let Some((server, client)) = self.console_of(number)
            && let (Some(domain), Some(&signal)) =
                (server.remains.domain, server.signals.get(client))
            && let Err(failure) =
                connect_signal(&self.system.vms[number], monitor.kick, domain, signal)
        {
            log::error!("{}: no console: {failure}", self.system.vms[number].name);
        }
        self.start_vm(number, monitor);
    }
}

/// Gives a console server the means to raise the serial port's interrupt line of a VM.
pub(super) fn connect_signal(vm: &Vm, kick: Selector, domain: Selector, dst: Selector) -> Result {
    let badge = Badge(1 << vm.serial.line);
    syscall::delegate_notification(kick, domain, dst, Rights::SIGNAL, badge)
        .doing("delegate a notification")
}
