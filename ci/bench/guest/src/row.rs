/// What is measured. A row of exits is a round trip: from the guest to whoever answers, and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Row {
    /// A hypercall.
    Hypercall,
    /// x86: CPUID, and an instruction that says which leaf.
    Cpuid,
    /// Arm: read of an identification register.
    IdRegister,
    /// x86: read of a port.
    PortRead,
    /// Read of a device's register.
    MmioRead,
    /// Write to a device's register.
    MmioWrite,
    /// x86: RDMSR.
    Msr,
    /// Arm: read of a system register that is no identification register.
    SystemRegister,
    /// Read of a register of the interrupt controller. x86: of the x2APIC; Arm: of the distributor.
    InterruptController,
    /// Write to a doorbell.
    Doorbell,
    /// HLT or WFI, and a signal that ends it by an interrupt: until the instruction behind it.
    HaltWake,
    /// Access to memory that is not mapped, until it is.
    PageFault,
    /// From a signal to the first instruction of the guest's interrupt handler.
    SignalToHandler,
    /// From a vCPU's interrupt for another one to that one's handler.
    Ipi,
    /// Inside the guest: a system call of ring 3 or EL0, and back.
    Syscall,
    /// Inside the guest: from one context to another, with page tables and stack.
    ContextSwitch,
    /// Inside the guest: a page fault whose handler maps the page.
    GuestPageFault,
}

impl Row {
    /// All rows.
    pub const ALL: [Row; 17] = {
        use Row::*;
        [
            Hypercall,
            Cpuid,
            IdRegister,
            PortRead,
            MmioRead,
            MmioWrite,
            Msr,
            SystemRegister,
            InterruptController,
            Doorbell,
            HaltWake,
            PageFault,
            SignalToHandler,
            Ipi,
            Syscall,
            ContextSwitch,
            GuestPageFault,
        ]
    };

    /// Its name in the benchmark's output.
    pub const fn name(self) -> &'static str {
        match self {
            Row::Hypercall => "exit.hypercall",
            Row::Cpuid => "exit.cpuid",
            Row::IdRegister => "exit.id_register",
            Row::PortRead => "exit.port_read",
            Row::MmioRead => "exit.mmio_read",
            Row::MmioWrite => "exit.mmio_write",
            Row::Msr => "exit.msr",
            Row::SystemRegister => "exit.system_register",
            Row::InterruptController => "exit.interrupt_controller",
            Row::Doorbell => "exit.doorbell",
            Row::HaltWake => "exit.halt_wake",
            Row::PageFault => "exit.page_fault",
            Row::SignalToHandler => "inject.signal_to_handler",
            Row::Ipi => "inject.ipi",
            Row::Syscall => "guest.syscall",
            Row::ContextSwitch => "guest.context_switch",
            Row::GuestPageFault => "guest.page_fault",
        }
    }

    /// Its bit in [`crate::Arguments::rows`].
    pub const fn bit(self) -> u64 {
        1 << self as usize
    }
}
