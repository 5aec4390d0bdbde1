//! The operations: one table, which everything else is made from.
//!
//! Each operation has a struct with its arguments, of types that know which words they are made of and which words are
//! none of theirs ([`crate::argument`]): the kernel decodes it, programs encode it. Before anything else,
//! [`Status::BadArgument`] is returned if an argument is not of its type or a reserved bit of the tag is set. What an operation does
//! not use of the registers is not looked at. Statuses that follow from the types of arguments are not listed again;
//! those of an operation, all taken together, are [`Op::statuses`].

use crate::argument::right::*;
use crate::argument::{
    Access, Argument, Cap, CodeAddress, Destination, LogBytes, Number, PageAddress, Placement,
    StackAddress, Words,
};
use crate::kind::{
    Any, Context, Delegable, Domain, Interrupt, Log, Memory, Notification, Platform, Portal, Sched,
    Space, Thread, Time, Vcpu,
};
use crate::operation::{Cost, Description, Field, Operation, Registers, operations, registers};
use crate::status::{Status, StatusSet};
use crate::syscall::{DelegateFlags, DoorbellKind, PowerAction, SpaceKind, TriggerMode};
use crate::utcb::REGISTER_WORDS;
use crate::{MAX_QUOTA, MAX_SLOTS, PRIORITIES, Rights, Selector};

operations! {
    /// Calls a portal: the handler receives the message and runs on the caller's scheduling context until it replies. [`crate::Tag`]
    /// says how many words of the UTCB and how many capabilities belong to the message. Capabilities go to the
    /// receive window ([`crate::utcb::Window`]) of the handler, and those of its reply to that of the caller: all of
    /// them, or the call fails and nothing has happened. If the handler is busy, the caller's time helps it first.
    Call = 0 {
        /// The portal.
        0 portal: Cap<Portal, CALL>,
        /// The words of the message that travel in registers.
        1 message: [u64; REGISTER_WORDS],
    }
    returns Reply {
        /// The reply, as the message. `a0` is 0.
        1 message: [u64; REGISTER_WORDS],
    }
    before: "The words in the UTCB are no more than fit beside the capabilities."
        "The portal's handler is a thread of the caller's CPU."
        "Each capability can be delegated as its item says, as by `Delegate`, and none is granted that is sent twice.";
    after: "The handler has replied."
        "The capabilities of message and reply are in the windows, from the first slot on.";
    errors: WrongCpu "The handler belongs to another CPU."
        Depth "The caller itself is at the end of a chain of that many calls."
        Dead "The portal has no handler any more, or the handler ended before it replied; a domain that a \
            capability is sent to is ending."
        Deadlock "The handler waits for the caller."
        BadArgument "Too many words or capabilities; an item is not in order."
        NoWindow "The handler's window has fewer slots than there are capabilities."
        BadSelector "The handler's window is outside its table."
        Occupied "A slot of the handler's window is in use."
        Busy "A capability cannot be granted: things were derived from it, or an object ends with it.";
    cost: Linear("the words in the UTCB");

    /// Replies to the current caller, if there is one, then waits for the next call. Words in the UTCB and capabilities go with
    /// the reply as with the message of [`Op::Call`]; capabilities only to a caller that told no exception or exit.
    ReplyWait = 1 {
        /// The words of the reply that travel in registers.
        1 message: [u64; REGISTER_WORDS],
    }
    returns Request {
        /// The identity of the portal that was called.
        0 identity: u64,
        /// The message.
        1 message: [u64; REGISTER_WORDS],
    }
    before: "The words in the UTCB are no more than fit beside the capabilities.";
    after: "A portal of this thread has been called."
        "The words in the UTCB and capabilities that the tag names belong to the message.";
    errors: BadArgument "Too many words or capabilities; an item is not in order; capabilities for nobody. The \
        caller still waits, as after all errors."
        BadCapability "An item names no capability."
        Denied "An item's capability lacks `DELEGATE`, or bits of the badge."
        NoWindow "The caller's window has fewer slots than there are capabilities."
        BadSelector "The caller's window is outside its table."
        Occupied "A slot of the caller's window is in use."
        Dead "The caller's domain is ending."
        Busy "A capability cannot be granted: things were derived from it, or an object ends with it.";
    cost: Linear("the words in the UTCB");

    /// Sets the bits of the capability's badge in a notification and wakes its waiter, on whichever CPU that is.
    Signal = 2 {
        /// The notification.
        0 notification: Cap<Notification, SIGNAL>,
    }
    after: "The bits are set, or the waiter has received them.";
    cost: Constant;

    /// Waits until a bit of a notification is set.
    Wait = 3 {
        /// The notification.
        0 notification: Cap<Notification, WAIT>,
        /// Until when: an absolute time in ticks of the machine's counter. 0 polls, `u64::MAX` waits for ever.
        1 deadline: u64,
    }
    returns Waited {
        /// The bits that were set.
        1 bits: u64,
    }
    after: "The bits are cleared.";
    errors: Timeout "The deadline passed, or a poll found no bit."
        Busy "Somebody else waits, or a vCPU is kicked by it."
        Aborted "The notification ended, or the capability was taken back.";
    cost: Linear("the logarithm of the number of timeouts that are armed on the CPU");

    /// Gives the rest of the turn to the next scheduling context of the same priority.
    Yield = 4 {}
    cost: Constant;

    /// Creates a domain.
    CreateDomain = 5 {
        /// Pays for the domain, its table and its quota.
        0 payer: Cap<Domain, CREATE>,
        /// Receives the domain.
        1 destination: Destination,
        /// Its quota, in pages, which is taken from the payer's.
        2 quota: Number<0, MAX_QUOTA>,
        /// Slots of its capability table.
        3 slots: Number<1, { MAX_SLOTS as u64 }>,
    }
    before: "Payer and caller are less deep than [`crate::MAX_DOMAIN_DEPTH`].";
    after: "The domain is one deeper than the deeper of the two. Its table is empty.";
    errors: BadArgument "The domain would be too deep."
        Dead "The payer is ending.";
    pays: 0;
    cost: Linear("the slots of the table");

    /// Creates an address space.
    CreateSpace = 6 {
        /// Pays for the space, and for the page tables that later mappings need.
        0 payer: Cap<Domain, CREATE>,
        /// Receives the space.
        1 destination: Destination,
        /// What it is a space of.
        2 kind: SpaceKind,
    }
    after: "The space is empty.";
    errors: Dead "The payer is ending.";
    pays: 0;
    cost: Constant;

    /// Creates a thread. Without a scheduling context it runs only on its callers' time.
    CreateThread = 7 {
        /// Pays for the thread and its UTCB.
        0 payer: Cap<Domain, CREATE>,
        /// Receives the thread.
        1 destination: Destination,
        /// Its domain.
        2 domain: Cap<Domain, INSTALL>,
        /// Its host space.
        3 space: Cap<Space, INSTALL>,
        /// Its CPU, and what it is.
        4 placement: Placement,
        /// Where its UTCB is to be.
        5 utcb: PageAddress,
        /// Its instruction pointer: where it starts, if need be with its first call.
        6 ip: CodeAddress,
        /// Its stack pointer.
        7 sp: StackAddress,
        /// The portal that handles its exceptions, in its domain.
        8 exceptions: Selector,
    }
    before: "The domain is the payer, and pays for the space, which is a host space."
        "The machine has the CPU.";
    after: "The UTCB is mapped in the space for reading and writing.";
    errors: BadArgument "The domain is not the payer or does not pay for the space; the space is no host space; \
        there is no such CPU."
        Occupied "Something is mapped where the UTCB is to be."
        Dead "The payer is ending.";
    pays: 0;
    cost: Constant;

    /// Creates a vCPU. Its first exit is [`crate::vcpu::ExitKind::Startup`].
    CreateVcpu = 8 {
        /// Pays for the vCPU and its state page.
        0 payer: Cap<Domain, CREATE>,
        /// Receives the vCPU.
        1 destination: Destination,
        /// The domain in whose table portals for its exits are looked up.
        2 domain: Cap<Domain, INSTALL>,
        /// Its guest space.
        3 guest_space: Cap<Space, INSTALL>,
        /// Its CPU.
        4 cpu: u32,
        /// The host space that its state page ([`crate::vcpu`]) is mapped into.
        5 host_space: Cap<Space, INSTALL>,
        /// Where its state page is to be.
        6 state: PageAddress,
        /// The portal for exit kind 0, in that domain; kind `k` uses the selector `k` places further.
        7 portals: Selector,
    }
    before: "The domain is the payer, and pays for both spaces, of which the one is a guest space and the other a \
        host space."
        "The machine has the CPU.";
    after: "The state page is mapped in the host space for reading and writing.";
    errors: BadArgument "The domain is not the payer or does not pay for a space; a space is of the wrong kind; \
        there is no such CPU."
        Occupied "Something is mapped where the state page is to be."
        Dead "The payer is ending."
        Unsupported "The CPU cannot virtualise.";
    pays: 0;
    cost: Constant;

    /// Creates a scheduling context.
    CreateSched = 9 {
        /// Pays for it.
        0 payer: Cap<Domain, CREATE>,
        /// Receives the scheduling context.
        1 destination: Destination,
        /// Its CPU.
        2 cpu: u32,
        /// Its priority; 0 is the lowest.
        3 priority: Number<0, { PRIORITIES as u64 - 1 }>,
        /// Ticks in each period that it lets run.
        4 budget: u64,
        /// Ticks.
        5 period: u64,
        /// The time that it is made from, and whose partition it belongs to.
        6 time: Cap<Time, CREATE>,
    }
    before: "The machine has the CPU, and the time has CPU and priority."
        "The budget is not larger than the period. Both are 0 for one without limit, which takes turns within its \
            priority by the kernel's time slice; else neither is.";
    errors: BadArgument "There is no such CPU; budget and period do not fit each other."
        Denied "The time has not that CPU, or not that priority."
        Dead "The payer is ending.";
    pays: 0;
    cost: Constant;

    /// Creates a portal. It belongs to the handler's CPU.
    CreatePortal = 10 {
        /// Pays for it.
        0 payer: Cap<Domain, CREATE>,
        /// Receives the portal.
        1 destination: Destination,
        /// The thread that handles calls.
        2 handler: Cap<Thread, CONTROL>,
        /// What the handler receives as `a0`.
        3 identity: u64,
        /// Groups of a vCPU's state that an exit through this portal saves to the state page ([`crate::vcpu`]).
        4 groups: u64,
    }
    before: "The handler is not [`crate::syscall::ThreadFlags::FOREIGN`].";
    errors: BadArgument "The handler is foreign."
        Dead "The payer is ending.";
    pays: 0;
    cost: Constant;

    /// Creates a notification.
    CreateNotification = 11 {
        /// Pays for it.
        0 payer: Cap<Domain, CREATE>,
        /// Receives the notification.
        1 destination: Destination,
    }
    after: "No bit is set. The badge of the capability is all ones.";
    errors: Dead "The payer is ending.";
    pays: 0;
    cost: Constant;

    /// Delegates a capability. What arrives is derived from it.
    Delegate = 12 {
        /// What is delegated.
        0 capability: Cap<Delegable, DELEGATE>,
        /// Into whose table.
        1 domain: Cap<Domain, INSTALL>,
        /// Where, in that domain's table.
        2 destination: Destination,
        /// The rights that arrive: those of these that the capability has.
        3 rights: Rights,
        /// Memory: offset of the part, in bytes (ports: in ports). Notification: badge. Time: CPUs, a bit for each. Else not
        /// looked at.
        4 first: u64,
        /// Memory: size of the part, in bytes (ports: in ports). Time: highest priority in bits 0–7, partition in bits 8–15. Else
        /// not looked at.
        5 second: u64,
        /// How.
        6 flags: DelegateFlags,
    }
    before: "Of memory, the part is not empty and inside the capability's, and its bounds are multiples of the page \
        size unless it is ports."
        "Of a notification, the badge has no bit that the capability's lacks."
        "Of time, the CPUs are some of the capability's, the priority is no higher, and the partition is the same \
            unless the capability's is 0."
        "A capability that is granted has no descendants, nothing is bound with it, and it is not the one that a creation made.";
    after: "If it is granted, the capability is where it was delegated to, as it was, and no longer where it came from. Who waits \
        or is kicked with it goes on.";
    errors: BadArgument "The part is none of the memory; priority or partition are none."
        Denied "The badge has other bits than the capability's; the time is more than the capability's."
        Busy "It cannot be granted."
        Dead "The domain is ending.";
    cost: Constant;

    /// Revokes everything that was delegated from or mapped through a capability.
    Revoke = 13 {
        /// The capability, which stays.
        0 capability: Cap<Any, NONE>,
    }
    after: "Nothing is derived from it. No CPU, guest or device can use what was taken back. Nothing is bound and \
        nobody waits with it.";
    cost: Steps("what is taken back");

    /// As [`Op::Revoke`], then deletes the capability itself, and the object if it is the one that the creation made.
    Delete = 14 {
        /// The capability.
        0 capability: Cap<Any, NONE>,
    }
    before: "An object that ends is neither the caller, nor its domain, nor a space that threads or vCPUs use.";
    after: "The slot is empty. No CPU, guest or device can use what was taken back, nothing is bound and nobody waits with \
        it, and what the object was made of is its payer's.";
    errors: Busy "The object is in use. What was derived has been taken back.";
    cost: Steps("what is taken back");

    /// Maps memory into a space, with the largest pages that fit. If it fails on the way, for a page that is mapped or for quota,
    /// what comes before that is mapped, and the mapping is there for it; for nothing, none is.
    Map = 15 {
        /// The memory.
        0 memory: Cap<Memory, NONE>,
        /// The space.
        1 space: Cap<Space, INSTALL>,
        /// Receives the mapping.
        2 destination: Destination,
        /// Offset in the memory, in bytes (ports: in ports).
        3 offset: u64,
        /// Address in the space (ports: the first port).
        4 address: u64,
        /// Size, in bytes (ports: in ports).
        5 size: u64,
        /// What programs or guests can do with it, and how it is cached.
        6 access: Access,
    }
    before: "The memory capability has the rights that are asked for, which are `READ`, and `WRITE` or `EXEC` or both."
        "The range is not empty, inside the memory and inside the space, and its bounds are multiples of the page \
            size. The first page of a host space stays empty."
        "Ports go to a host space, to the address that is their number, with natural caching.";
    after: "The mapping is derived from the memory.";
    errors: BadArgument "The range or access is none that can be."
        Denied "The memory capability lacks a right that is asked for. Registers by which guests reach the virtual \
            CPU interface (GICv2's GICV) are mapped into guest spaces only, as they act on whichever guest is loaded."
        Occupied "Part of the range is mapped.";
    pays: 1;
    cost: Steps("page-table entries");

    /// Binds a scheduling context to a thread or vCPU and starts it.
    BindSched = 16 {
        /// The scheduling context.
        0 sched: Cap<Sched, CONTROL>,
        /// The thread or vCPU.
        1 context: Cap<Context, CONTROL>,
    }
    before: "Both belong to the same CPU.";
    after: "The thread or vCPU competes with that priority and budget, for as long as both live.";
    errors: WrongCpu "They belong to different CPUs."
        Busy "The scheduling context is bound, or the other one has one.";
    cost: Constant;

    /// Binds a notification to a vCPU: the kick. Any signal ends guest mode or a halt and arrives as
    /// [`crate::vcpu::ExitKind::Kick`] with the bits.
    BindKick = 17 {
        /// The vCPU.
        0 vcpu: Cap<Vcpu, CONTROL>,
        /// The notification.
        1 notification: Cap<Notification, WAIT>,
    }
    before: "The vCPU has not been started, and has no kick.";
    errors: Busy "The vCPU was started or has a kick; somebody waits for the notification."
        Aborted "The notification is ending.";
    cost: Constant;

    /// Binds an interrupt line to a notification and unmasks it. From delivery to [`Op::InterruptAck`] it stays masked.
    InterruptBind = 18 {
        /// The line.
        0 line: Cap<Interrupt, CONTROL>,
        /// What it signals, with the capability's badge.
        1 notification: Cap<Notification, SIGNAL>,
        /// How it is triggered.
        2 mode: TriggerMode,
    }
    before: "The line is not bound.";
    errors: Busy "The line is bound."
        Unsupported "The machine has no such line, or cannot deliver it.";
    cost: Constant;

    /// Acknowledges an interrupt: unmasks its line.
    InterruptAck = 19 {
        /// The line.
        0 line: Cap<Interrupt, CONTROL>,
    }
    after: "The next interrupt is delivered. If it came already, it has been.";
    cost: Constant;

    /// Queries a domain's quota.
    QuotaQuery = 20 {
        /// The domain.
        0 domain: Cap<Domain, CONTROL>,
    }
    returns Quota {
        /// What it may use, in pages.
        1 pages: u64,
        /// What of that it uses.
        2 used: u64,
    }
    cost: Constant;

    /// Appends bytes to the log.
    LogWrite = 21 {
        /// The log.
        0 log: Cap<Log, WRITE>,
        /// The bytes.
        1 bytes: LogBytes,
    }
    cost: Constant;

    /// Takes bytes from the log.
    LogRead = 22 {
        /// The log.
        0 log: Cap<Log, READ>,
        /// 1: from now on the kernel does not write the log to its UART.
        1 take_over: bool,
    }
    returns LogTaken {
        /// The bytes that were written first; none if the log is empty.
        1 bytes: LogBytes,
    }
    cost: Constant;

    /// Has the kernel signal a notification when the log becomes non-empty. Any other notification is no longer signalled.
    LogBind = 23 {
        /// The log.
        0 log: Cap<Log, READ>,
        /// What is signalled, with the capability's badge.
        1 notification: Cap<Notification, SIGNAL>,
    }
    cost: Constant;

    /// Ends the machine. Does not return if it succeeds.
    Power = 24 {
        /// The machine's power.
        0 platform: Cap<Platform, CONTROL>,
        /// How.
        1 action: PowerAction,
    }
    errors: Unsupported "Firmware offers the kernel no such service (x86: ACPI's ports are the root task's).";
    cost: Constant;

    /// Gives a domain more quota, of what is free of its payer's.
    QuotaGive = 25 {
        /// The payer.
        0 payer: Cap<Domain, CREATE>,
        /// The domain.
        1 domain: Cap<Domain, CREATE>,
        /// How much, in pages.
        2 pages: u64,
    }
    before: "The payer paid for the domain.";
    after: "Both quotas are as if the domain had been made with so much more.";
    errors: BadArgument "Another domain paid for it."
        Dead "One of them is ending.";
    pays: 0;
    cost: Constant;

    /// Takes quota that is free back from a domain.
    QuotaTake = 26 {
        /// The payer.
        0 payer: Cap<Domain, CREATE>,
        /// The domain.
        1 domain: Cap<Domain, CREATE>,
        /// How much, in pages.
        2 pages: u64,
    }
    before: "The payer paid for the domain.";
    after: "It is free in the payer's quota.";
    errors: BadArgument "Another domain paid for it."
        Dead "The domain is ending.";
    pays: 1;
    cost: Constant;

    /// Binds a range of a guest space to a notification: a guest's write there signals, and the guest goes on after it.
    ///
    /// The access counts whose first byte is in the range, if it leaves guest mode: the range is not mapped writable. What is written
    /// is not kept. Reads, and writes that the processor does not describe well enough to go on after them, are exits
    /// as without a doorbell: string instructions to ports; on x86, all writes to memory under SVM, and under VMX those
    /// that read there too, or on a processor of another hypervisor; on Arm, those of more than one register, with
    /// write-back, or of AArch32. What else an x86 instruction does than to store is left out.
    BindDoorbell = 27 {
        /// What is signalled, with the capability's badge.
        0 notification: Cap<Notification, SIGNAL>,
        /// The guest space.
        1 space: Cap<Space, INSTALL>,
        /// Receives a mapping, which is derived from the notification.
        2 destination: Destination,
        /// What the range is of.
        3 kind: DoorbellKind,
        /// First address or port.
        4 first: u64,
        /// Size, in bytes or ports.
        5 size: u64,
    }
    before: "The space is a guest space, and the range is inside it and not empty.";
    errors: BadArgument "The space is no guest space, or the range is none of its."
        Occupied "Part of the range is bound, or [`crate::syscall::MAX_DOORBELLS`] are.";
    pays: 1;
    cost: Linear("the doorbells of the space");

    /// Binds a notification to a scheduling context: the overrun event. It is signalled, at most once in a period, when whoever
    /// runs on the scheduling context would go on and the budget is spent.
    BindOverrun = 28 {
        /// The scheduling context.
        0 sched: Cap<Sched, CONTROL>,
        /// What is signalled, with the capability's badge.
        1 notification: Cap<Notification, SIGNAL>,
    }
    before: "The scheduling context has no overrun event.";
    errors: Busy "It has one.";
    cost: Constant;

    /// Gives a CPU a cyclic schedule: a major frame that repeats, with windows. In a window the scheduling contexts of its
    /// partition run and no others; between windows none. The windows are in the UTCB, and the tag says how many words they
    /// are: [`crate::syscall::WINDOW_WORDS`] for each, with its start in the frame and its length, in ticks, and its partition.
    SetSchedule = 29 {
        /// Time of the CPU, of partition 0.
        0 time: Cap<Time, CONTROL>,
        /// The CPU.
        1 cpu: u32,
        /// Ticks of the major frame. 0, without windows: there is no schedule from then on.
        2 frame: u64,
    }
    before: "The machine has the CPU, and the time has it too."
        "The windows are at most [`crate::syscall::MAX_WINDOWS`], in ascending order, apart, not empty and inside \
            the frame.";
    after: "The schedule begins when the present frame ends, or at once where there is none.";
    errors: BadArgument "There is no such CPU; the windows are not in order."
        Denied "The time has not that CPU, or is of another partition than 0.";
    cost: Constant;

    /// Moves a thread or vCPU to another CPU, with the scheduling context that is bound to it and, of a thread, the portals that
    /// it handles. If it is on that CPU, nothing changes.
    Migrate = 30 {
        /// The thread or vCPU.
        0 context: Cap<Context, CONTROL>,
        /// The CPU that it goes to.
        1 cpu: u32,
        /// Time of that CPU.
        2 time: Cap<Time, CREATE>,
        /// A vCPU's portal for exit kind 0 from then on. Of a thread, it means nothing.
        3 portals: Selector,
    }
    before: "The machine has the CPU, and the time has it, with the priority and the partition of the scheduling \
        context if there is one."
        "It does not call, help or serve a call.";
    after: "It goes on there as it was, with what is left of its budget and its deadline.";
    errors: BadArgument "There is no such CPU."
        Denied "The time has not that CPU, or not what the scheduling context has."
        Busy "It calls, helps or serves a call; it has been given a scheduling context just now; somebody else moves it."
        Dead "It never runs again.";
    cost: Steps("who helps it");
}
