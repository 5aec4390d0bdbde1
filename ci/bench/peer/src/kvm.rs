//! KVM's interface: what both architectures have of it, as far as the driver needs it. The structures are those of Linux's
//! `Documentation/virt/kvm/api.rst`.

use core::fmt;
use core::ptr::NonNull;

use crate::linux::{self, File, Memory, Priority, Request, Result};
use crate::print_line;

/// Directions of a request's argument.
const WRITE: u32 = 1;
const READ: u32 = 2;

/// A request of KVM's whose argument is a number, or none.
pub const fn plain(name: &'static str, number: u32) -> Request {
    request::<()>(name, 0, number)
}

/// A request that KVM reads a `T` of.
pub const fn write<T>(name: &'static str, number: u32) -> Request {
    request::<T>(name, WRITE, number)
}

/// A request that KVM writes a `T` for.
pub const fn read<T>(name: &'static str, number: u32) -> Request {
    request::<T>(name, READ, number)
}

/// A request that KVM reads a `T` of, and writes it back.
pub const fn exchange<T>(name: &'static str, number: u32) -> Request {
    request::<T>(name, READ | WRITE, number)
}

const fn request<T>(name: &'static str, direction: u32, number: u32) -> Request {
    const KVM: u32 = 0xae;
    Request { name, number: direction << 30 | (size_of::<T>() as u32) << 16 | KVM << 8 | number }
}

const CREATE_VM: Request = plain("KVM_CREATE_VM", 0x01);
const GET_VCPU_MMAP_SIZE: Request = plain("KVM_GET_VCPU_MMAP_SIZE", 0x04);
const CREATE_VCPU: Request = plain("KVM_CREATE_VCPU", 0x41);
const SET_USER_MEMORY_REGION: Request = write::<MemoryRegion>("KVM_SET_USER_MEMORY_REGION", 0x46);
const IOEVENTFD: Request = write::<IoEvent>("KVM_IOEVENTFD", 0x79);
const RUN: Request = plain("KVM_RUN", 0x80);
const SET_DEVICE_ATTR: Request = write::<Attribute>("KVM_SET_DEVICE_ATTR", 0xe1);

#[repr(C)]
struct MemoryRegion {
    slot: u32,
    flags: u32,
    guest_address: u64,
    size: u64,
    address: u64,
}

#[repr(C)]
struct IoEvent {
    match_value: u64,
    address: u64,
    length: u32,
    file: u32,
    flags: u32,
    padding: [u8; 36],
}

#[repr(C)]
struct Attribute {
    flags: u32,
    group: u32,
    number: u64,
    address: u64,
}

/// Beginning of what KVM shares with whoever runs a vCPU.
#[repr(C)]
struct Run {
    request_interrupt_window: u8,
    immediate_exit: u8,
    padding: [u8; 6],
    exit_reason: u32,
    ready_for_interrupt: u8,
    interrupts_on: u8,
    flags: u16,
    cr8: u64,
    apic_base: u64,
    exit: ExitData,
}

#[repr(C)]
#[derive(Clone, Copy)]
union ExitData {
    port: PortAccess,
    memory: MemoryAccess,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct PortAccess {
    direction: u8,
    size: u8,
    port: u16,
    count: u32,
    data_offset: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct MemoryAccess {
    address: u64,
    data: [u8; 8],
    length: u32,
    is_write: u8,
}

/// Why a vCPU has left the guest.
#[derive(Clone, Copy, Debug)]
pub enum Exit {
    /// It reads a port: [`Vcpu::answer_port`].
    PortRead(u16),
    /// It reads from an address without memory: [`Vcpu::answer`].
    Read(u64),
    /// It writes this to an address without memory.
    Write(u64, u32),
    /// Something else: KVM's number for it.
    Other(u32),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::PortRead(port) => write!(f, "a read of port {port:#x}"),
            Exit::Read(address) => write!(f, "a read at {address:#x}"),
            Exit::Write(address, value) => write!(f, "a write of {value:#x} at {address:#x}"),
            Exit::Other(number) => write!(f, "an exit that has KVM's number {number}"),
        }
    }
}

/// `/dev/kvm`.
#[derive(Clone, Copy, Debug)]
pub struct Kvm {
    /// Its file.
    pub file: File,
    /// Bytes that KVM shares for each vCPU.
    shared: usize,
}

/// A virtual machine.
#[derive(Clone, Copy, Debug)]
pub struct Vm {
    /// Its file.
    pub file: File,
}

/// A virtual CPU.
#[derive(Clone, Copy, Debug)]
pub struct Vcpu {
    /// Its file.
    pub file: File,
    run: NonNull<Run>,
}

impl Kvm {
    /// Opens it.
    pub fn open() -> Result<Kvm> {
        let file = File::device(c"/dev/kvm", "opening /dev/kvm")?;
        // SAFETY: it takes no argument.
        let shared = unsafe { file.control(GET_VCPU_MMAP_SIZE, 0) }? as usize;
        Ok(Kvm { file, shared })
    }

    /// Makes a virtual machine without anything.
    pub fn create_vm(self) -> Result<Vm> {
        // SAFETY: its argument is a type of machines: the usual one.
        let number = unsafe { self.file.control(CREATE_VM, 0) }?;
        Ok(Vm { file: File::from_number(number) })
    }

    /// Makes a vCPU of `vm`.
    pub fn create_vcpu(self, vm: Vm, number: usize) -> Result<Vcpu> {
        // SAFETY: its argument is a number.
        let file = File::from_number(unsafe { vm.file.control(CREATE_VCPU, number) }?);
        Ok(Vcpu { file, run: file.map(self.shared)?.cast() })
    }
}

impl Vm {
    /// Makes memory of this process the guest's RAM at `guest_address`. There is one piece for each `slot`.
    pub fn set_memory(self, slot: u32, guest_address: u64, memory: Memory) -> Result {
        let region = MemoryRegion {
            slot,
            flags: 0,
            guest_address,
            size: memory.size() as u64,
            address: memory.start().as_ptr() as u64,
        };
        // SAFETY: such memory is never unmapped, and accessed as what others change.
        unsafe { self.file.pass(SET_USER_MEMORY_REGION, &region) }
    }

    /// Makes a write of `length` bytes to an address, or to a port, signal an event that nobody waits for. With length 0,
    /// for addresses only, it is one of any length, for which KVM need not decode the instruction.
    pub fn set_doorbell(self, address: u64, length: u32, port: bool) -> Result {
        const PORT: u32 = 1 << 1;
        let event = IoEvent {
            match_value: 0,
            address,
            length,
            file: linux::event()?.number(),
            flags: if port { PORT } else { 0 },
            padding: [0; 36],
        };
        // SAFETY: it has no effect on this process's memory.
        unsafe { self.file.pass(IOEVENTFD, &event) }
    }
}

impl File {
    /// An operation whose argument is a `T`.
    ///
    /// # Safety
    /// As for [`File::control`].
    pub unsafe fn pass<T>(self, request: Request, argument: &T) -> Result {
        // SAFETY: as the caller promises.
        unsafe { self.control(request, &raw const *argument as usize) }.map(drop)
    }

    /// Sets an attribute of one of KVM's devices to the word at `value`.
    pub fn set_attribute(self, group: u32, number: u64, value: &u64) -> Result {
        let attribute = Attribute { flags: 0, group, number, address: &raw const *value as u64 };
        // SAFETY: it reads at most the word.
        unsafe { self.pass(SET_DEVICE_ATTR, &attribute) }
    }
}

impl Vcpu {
    /// Runs it in a thread of its own, which goes first. It does nothing that this program has to answer.
    pub fn run_beside(self) -> Result {
        linux::start_thread(run_alone, self.file.number() as usize, Priority::High)
    }

    /// Runs it until it leaves the guest.
    #[inline(always)]
    pub fn run(self) -> Result<Exit> {
        // SAFETY: it takes no argument; nothing refers to what KVM shares, nor to the guest's memory.
        unsafe { self.file.control(RUN, 0) }?;
        let run = self.run.as_ptr();
        const IO: u32 = 2;
        const MMIO: u32 = 6;
        // SAFETY: KVM shares this page; it does not change while the vCPU does not run. Which part of the union is valid, the
        // reason says.
        unsafe {
            match (&raw const (*run).exit_reason).read_volatile() {
                IO => {
                    let access = (&raw const (*run).exit.port).read_volatile();
                    match access.direction {
                        0 => Ok(Exit::PortRead(access.port)),
                        _ => Ok(Exit::Other(IO)),
                    }
                }
                MMIO => {
                    let access = (&raw const (*run).exit.memory).read_volatile();
                    let [a, b, c, d, ..] = access.data;
                    match access.is_write {
                        0 => Ok(Exit::Read(access.address)),
                        _ => Ok(Exit::Write(access.address, u32::from_le_bytes([a, b, c, d]))),
                    }
                }
                other => Ok(Exit::Other(other)),
            }
        }
    }

    /// What the last read of a port gets.
    #[inline(always)]
    pub fn answer_port(self, value: u8) {
        let run = self.run.as_ptr();
        // SAFETY: as in `run`; KVM's offset lies in what it shares.
        unsafe {
            let offset = (&raw const (*run).exit.port.data_offset).read_volatile();
            run.cast::<u8>().add(offset as usize).write_volatile(value);
        }
    }

    /// What the last read of memory gets.
    #[inline(always)]
    pub fn answer(self, value: u32) {
        let run = self.run.as_ptr();
        // SAFETY: as in `run`.
        unsafe { (&raw mut (*run).exit.memory.data).cast::<u32>().write_volatile(value) };
    }
}

/// Runs the vCPU of a file with this number.
extern "C" fn run_alone(number: usize) -> ! {
    // SAFETY: as in `Vcpu::run`.
    let returned = unsafe { File::from_number(number as u32).control(RUN, 0) };
    print_line!("peer: vCPU 1 has left the guest: {returned:?}");
    linux::power_off()
}
