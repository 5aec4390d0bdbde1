//! Port I/O and accesses to device memory.
use super::events::Lines;
use super::{Platform, Vcpu, vector};
use crate::arch::x86_64::apic::io;
use crate::arch::x86_64::apic::local;
use crate::arch::x86_64::instruction::EmulationError;
use crate::arch::x86_64::instruction::mmio::{self, Bus, Fault};
use crate::arch::x86_64::instruction::string::{self, PortBus};
use crate::arch::x86_64::ports::{self, PortDevice, PowerRequest};
use crate::arch::x86_64::vm::Vm;
use crate::bits::truncate;
use crate::memory::GuestPhys;
use crate::once::Reported;
use crate::platform::end;
use abi::vcpu::ExitKind;
use abi::vcpu::x86_64::{Groups, RAX, SHADOW_NMI};
use abi::vcpu::{FAULT_FETCH, FAULT_WRITE};
use core::sync::atomic::Ordering;
use rt::ipc::Words;
use rt::protocol::supervisor::StopReason;

const IO_IN: u64 = 1 << 24;
const IO_STRING: u64 = 1 << 25;

impl<P: Platform> Vcpu<P> {
    /// IN, OUT, INS, OUTS.
    pub(super) fn io(&mut self, length: u64, words: &Words) -> Groups {
        let port = words[1] as u16;
        let size = match words[1] >> 16 & 7 {
            1 => 1,
            2 => 2,
            _ => 4,
        };
        if words[1] & IO_STRING != 0 {
            return self.string_io(port);
        }
        if words[1] & IO_IN != 0 {
            let value = u64::from(self.port_in(port, size));
            let old = self.state.gpr(RAX);
            let rax = match size {
                1 => old & !0xff | value,
                2 => old & !0xffff | value,
                _ => value,
            };
            self.state.set_gpr(RAX, rax);
        } else {
            let value = self.state.gpr(RAX) as u32;
            self.port_out(port, size, value);
            if self.ended() {
                return self.park();
            }
        }
        if length == 0 && words[2] != 0 {
            self.state.set_rip(words[2]);
            return Groups::RIP;
        }
        self.skip(length)
    }

    fn string_io(&mut self, port: u16) -> Groups {
        if !self.wide.contains(ExitKind::Io) {
            return self.widen(ExitKind::Io);
        }
        let Vcpu { vm, id, platform, state, reported_ports, .. } = self;
        let mut bus = Ports { vm, id: *id, platform, reported: reported_ports };
        let result = string::port_string(&vm.ram, state, port, &mut bus);
        if self.ended() {
            return self.park();
        }
        match result {
            Ok(groups) => groups,
            Err(error) => self.emulation_failed(error),
        }
    }

    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        self.ports().port_in(port, size)
    }

    fn port_out(&mut self, port: u16, size: u8, value: u32) {
        self.ports().port_out(port, size, value);
    }

    fn ports(&mut self) -> Ports<'_, P> {
        let Vcpu { vm, id, platform, reported_ports, .. } = self;
        Ports { vm, id: *id, platform, reported: reported_ports }
    }

    /// An access to guest-physical memory that is no RAM.
    pub(super) fn stage_two_fault(&mut self, flags: u64, address: u64) -> Groups {
        let at = GuestPhys(address);
        if self.state.interrupted() & abi::vcpu::x86_64::EVENT_VALID != 0 {
            // The guest's tables or stacks are in device memory: it gets the event again, and again.
            return self.deliver();
        }
        if self.vm.ram.contains(at, 1) {
            log::error!("access {flags:#x} to RAM at {at} fails");
            return self.stop(StopReason::MonitorError);
        }
        if flags & FAULT_FETCH != 0 {
            if self.reported_pages.first((address >> 12) as u32) {
                log::info!("the guest executes at {at}, where nothing is");
            }
            // Nothing reads as ones, and those are no instruction.
            return self.exception(vector::UD, None);
        }
        self.sync_pv_eoi();
        let fault = Fault { at, write: flags & FAULT_WRITE != 0 };
        let (vm, now) = (self.vm, self.tsc());
        let Vcpu { id, platform, state, apic, nmi_pending, reported_pages, .. } = self;
        let lines = Lines { vm, id: *id, platform, apic, nmi_pending };
        let mut bus = Devices { lines, now, reported_pages };
        match mmio::emulate(&vm.ram, state, fault, &mut bus) {
            Ok(groups) => {
                self.state.set_interrupt_shadow(self.state.interrupt_shadow() & SHADOW_NMI);
                groups | self.deliver() | self.update_deadline()
            }
            Err(error) => self.emulation_failed(error),
        }
    }

    #[cold]
    fn emulation_failed(&mut self, error: EmulationError) -> Groups {
        match error {
            EmulationError::PageFault(code, address) => {
                // CR2 is in a group that was saved: emulation needs it.
                self.state.set_cr2(address);
                self.exception(vector::PF, Some(code)) | Groups::CONTROL
            }
            EmulationError::Protection => self.exception(vector::GP, Some(0)),
            EmulationError::Unsupported => {
                let rip = self.state.rip();
                if self.reported_pages.first(rip as u32) {
                    log::info!("the instruction at {rip:#x} is not emulated: #UD");
                }
                self.exception(vector::UD, None)
            }
        }
    }
}

/// The guest's ports.
struct Ports<'a, P> {
    vm: &'a Vm,
    id: u32,
    platform: &'a mut P,
    reported: &'a mut Reported<64>,
}

impl<P: Platform> Ports<'_, P> {
    fn device(&self, port: u16) -> PortDevice {
        ports::device(port, self.vm.serial.map(|serial| serial.port))
    }

    fn report(&mut self, port: u16) {
        if self.reported.first(port.into()) {
            log::info!("port {port:#x} is not there");
        }
    }

    fn byte_in(&mut self, port: u16) -> u8 {
        match self.device(port) {
            PortDevice::Serial(register) => self.platform.serial_read(register.into()) as u8,
            PortDevice::SleepControl | PortDevice::SleepStatus | PortDevice::ResetControl => 0,
            PortDevice::KeyboardCommand | PortDevice::Absent => 0xff,
            PortDevice::Unknown => {
                self.report(port);
                0xff
            }
        }
    }

    fn byte_out(&mut self, port: u16, value: u8) {
        let device = self.device(port);
        match device {
            PortDevice::Serial(register) => {
                self.platform.serial_write(register.into(), value.into());
            }
            PortDevice::Unknown => self.report(port),
            _ => {}
        }
        let Some(request) = ports::power_request(device, value) else {
            return;
        };
        let reason = match request {
            PowerRequest::Off => StopReason::PowerOff,
            PowerRequest::Reset => StopReason::Reset,
        };
        let vm = self.vm;
        end(self.platform, &vm.stopped, self.id, vm.vcpus, reason);
    }
}

impl<P: Platform> PortBus for Ports<'_, P> {
    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        // The configuration address of PCI is one register of four bytes.
        if size > 1 && matches!(self.device(port), PortDevice::Absent) {
            return ports::absent(size);
        }
        (0..u16::from(size))
            .fold(0, |value, i| value | u32::from(self.byte_in(port.wrapping_add(i))) << (i * 8))
    }

    fn port_out(&mut self, port: u16, size: u8, value: u32) {
        if size > 1 && matches!(self.device(port), PortDevice::Absent) {
            return;
        }
        for i in 0..u16::from(size) {
            self.byte_out(port.wrapping_add(i), (value >> (i * 8)) as u8);
        }
    }

    fn ended(&self) -> bool {
        self.vm.stopped.load(Ordering::Relaxed)
    }
}

/// The guest's device memory.
struct Devices<'a, P> {
    lines: Lines<'a, P>,
    now: u64,
    reported_pages: &'a mut Reported<64>,
}

/// A device in memory, and the offset in it.
enum Target {
    Local(u64),
    Io(u64),
    Nothing,
}

impl<P: Platform> Devices<'_, P> {
    fn target(&mut self, at: GuestPhys) -> Target {
        if self.lines.apic.is_mapped() && at.0 & !0xfff == local::BASE {
            return Target::Local(at.0 & 0xfff);
        }
        if (io::BASE..io::BASE + io::SIZE).contains(&at.0) {
            return Target::Io(at.0 - io::BASE);
        }
        if self.reported_pages.first((at.0 >> 12) as u32) {
            log::info!("nothing is at guest-physical address {at}");
        }
        Target::Nothing
    }
}

/// The part of a register of 4 bytes, or of 4 bytes and zeros, that an access of another size sees.
fn part(register: u32, offset: u64, size: u8) -> u64 {
    truncate(u64::from(register) >> (offset % 4 * 8), size)
}

impl<P: Platform> Bus for Devices<'_, P> {
    fn read(&mut self, at: GuestPhys, size: u8) -> u64 {
        match self.target(at) {
            // Registers are 16 bytes apart.
            Target::Local(offset) if offset % 16 < 4 => {
                let value = self.lines.apic.read((offset / 16) as u32, self.now).unwrap_or(0);
                part(value, offset, size)
            }
            Target::Local(_) => 0,
            Target::Io(offset) => {
                let value = self.lines.vm.io_apic.lock().read(offset & !3);
                part(value, offset, size)
            }
            Target::Nothing => u64::MAX,
        }
    }

    fn write(&mut self, at: GuestPhys, size: u8, value: u64) {
        // Registers take writes of their whole size.
        let whole = size >= 4 && at.0.is_multiple_of(4);
        match self.target(at) {
            Target::Local(offset) if whole && offset % 16 == 0 => {
                let number = (offset / 16) as u32;
                let effect = self.lines.apic.write_mapped(number, value as u32, self.now);
                self.lines.apply(effect);
                self.lines.publish();
            }
            Target::Io(offset) if whole => self.lines.write_io_apic(offset, value as u32),
            _ => {}
        }
    }
}
