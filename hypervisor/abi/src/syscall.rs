//! Operations: numbers, arguments, rights, errors.

use crate::Status;

macro_rules! operations {
    ($($(#[doc = $doc:literal])* $name:ident = $value:literal,)*) => {
        /// Number of a system call. Arguments `a0`–`a8` and results as in the crate's register
        /// table; `dst` is a selector in the caller's own table that must be empty; `payer` is a
        /// domain capability with [`crate::Rights::CREATE`] whose quota pays for the object.
        ///
        /// Every operation can return [`Status::BadCapability`], [`Status::Denied`] and
        /// [`Status::BadArgument`]; creations also [`Status::BadSelector`],
        /// [`Status::Occupied`] and [`Status::Quota`]. An object lives as long as the capability
        /// that its creation made; deleting that capability destroys the object and everything
        /// that was delegated from it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Op { $($(#[doc = $doc])* $name = $value,)* }

        impl Op {
            /// Every operation, in ascending order of number.
            pub const ALL: &'static [Op] = &[$(Op::$name,)*];

            /// Its identifier.
            pub const fn name(self) -> &'static str {
                match self { $(Op::$name => stringify!($name),)* }
            }

            /// Its description, for the specification: arguments, results, rights, errors.
            pub const fn description(self) -> &'static str {
                match self { $(Op::$name => concat!($($doc),*),)* }
            }

            /// The operation with this number, if there is one.
            pub const fn from_code(code: u8) -> Option<Op> {
                match code {
                    $($value => Some(Op::$name),)*
                    _ => None,
                }
            }
        }
    };
}

impl Op {
    /// Which argument names whose quota [`Status::Quota`] says to be exhausted, as `a1` does then: 0 is the domain
    /// `a0`; 1 the domain `a1`, or the payer of the space `a1`.
    pub const fn payer(self) -> u64 {
        match self {
            Op::Map | Op::QuotaTake | Op::BindDoorbell => 1,
            _ => 0,
        }
    }
}

operations! {
    /// Calls portal `a0` (right `CALL`) with message words 0–7 in `a1`–`a8` and
    /// [`Tag::utcb_words`] words of the UTCB. Returns the handler's reply in the same places.
    /// The handler runs on the caller's scheduling context. [`Tag::items`] capabilities are delegated to the receive
    /// window ([`crate::utcb::Window`]) of the handler, and those of its reply to that of the caller: all of
    /// them, or the call fails and nothing has happened. Errors: `WrongCpu`, `Dead`,
    /// `Deadlock`, `Depth`; those of [`Op::Delegate`], `NoWindow`.
    Call = 0,
    /// Replies to the current caller, if there is one, with the message in `a1`–`a8` and the
    /// UTCB, with [`Tag::items`] capabilities as in [`Op::Call`] (to a caller that is no exception or
    /// exit); then waits for the next call. Returns when a portal of this thread is called:
    /// `a0` = the portal's identity, `a1`–`a8` = the message. If the capabilities cannot be delegated, it returns the
    /// error at once, and the caller still waits.
    ReplyWait = 1,
    /// Sets the bits of the capability's badge in notification `a0` (right `SIGNAL`) and wakes
    /// its waiter, on whichever CPU it is.
    Signal = 2,
    /// Waits until a bit of notification `a0` (right `WAIT`) is set; returns the bits in `a1`
    /// and clears them. `a1` = absolute deadline in counter ticks; 0 polls, `u64::MAX` waits
    /// for ever. Errors: `Timeout`, `Busy` (another context waits), `Aborted`.
    Wait = 3,
    /// Gives the rest of the turn to the next scheduling context of the same priority.
    Yield = 4,
    /// Creates a domain. `a0` = payer, `a1` = dst, `a2` = quota in pages, taken from the
    /// payer's, which also pays for the table; `a3` = size of the capability table in slots.
    CreateDomain = 5,
    /// Creates an address space. `a0` = payer, also of page tables that later mappings need,
    /// `a1` = dst, `a2` = [`SpaceKind`].
    CreateSpace = 6,
    /// Creates a thread. `a0` = payer, `a1` = dst, `a2` = its domain (`INSTALL`), `a3` = its
    /// host space (`INSTALL`), `a4` = CPU number in bits 0–31 and [`ThreadFlags`] in the others,
    /// `a5` = address of its UTCB page (page-aligned, unused), `a6` = instruction pointer, `a7` =
    /// stack pointer, `a8` = selector in its domain of the portal that handles its exceptions.
    /// Without a scheduling context it runs only on its callers' time, starting at `a6` with its
    /// first call.
    CreateThread = 7,
    /// Creates a vCPU. `a0` = payer, `a1` = dst, `a2` = domain in whose table exit portals are
    /// looked up (`INSTALL`), `a3` = guest space (`INSTALL`), `a4` = CPU number, `a5` = host
    /// space that its state page ([`crate::vcpu`]) is mapped into (`INSTALL`), `a6` = address of
    /// the state page, `a7` = selector of the portal for exit kind 0; kind `k` uses selector
    /// `a7 + k`. Errors: `Unsupported` when the CPU cannot virtualise.
    CreateVcpu = 8,
    /// Creates a scheduling context. `a0` = payer, `a1` = dst, `a2` = CPU number, `a3` =
    /// priority, `a4` = budget and `a5` = period in counter ticks (`a4 <= a5`; both 0: round
    /// robin within the priority with the kernel's time slice and no limit), `a6` = time (`CREATE`) with that CPU and
    /// priority, whose partition it belongs to.
    CreateSched = 9,
    /// Creates a portal. `a0` = payer, `a1` = dst, `a2` = handler thread (`CONTROL`), which is
    /// none that is marked [`ThreadFlags::FOREIGN`], `a3` = identity that the handler receives, `a4` = vCPU state groups that an exit through this
    /// portal saves to the state page ([`crate::vcpu`]).
    CreatePortal = 10,
    /// Creates a notification. `a0` = payer, `a1` = dst. The new capability's badge is all ones.
    CreateNotification = 11,
    /// Delegates capability `a0` (right `DELEGATE`) to selector `a2` of domain `a1` (`INSTALL`),
    /// with rights `a3` (those it has and no more). Memory: `a4` = offset, `a5` = size of the
    /// part, in bytes; multiples of the page size (ports: any). Notification: `a4` = badge, a
    /// subset of the capability's. Time: `a4` = CPUs, one bit each, a subset of the capability's; `a5` = highest priority in
    /// bits 0–7, no higher than the capability's, and partition in bits 8–15, the capability's unless that is 0.
    /// `a6` = [`DelegateFlags`]. Errors: `Occupied`, `BadSelector`.
    Delegate = 12,
    /// Revokes everything that was delegated from or mapped through capability `a0`. When it
    /// returns, no CPU, guest or device can use what was taken back.
    Revoke = 13,
    /// As [`Op::Revoke`], then deletes the capability itself, and the object if it is the one that the
    /// creation made.
    Delete = 14,
    /// Maps memory `a0` into space `a1` (`INSTALL`); `a2` = dst, which receives the mapping
    /// capability; `a3` = offset in the memory, `a4` = address, `a5` = size, in bytes, multiples
    /// of the page size; `a6` = rights (`READ`, `WRITE`, `EXEC`; no more than the memory's) in bits 0–15, and
    /// [`Caching`] in the others. The largest pages that fit are used.
    /// Ports: `a3`, `a5` in ports, `a4` must equal the first port. Errors: `Occupied`
    /// when part of the range is mapped; `Denied` for registers by which guests reach the
    /// virtual CPU interface (GICv2's GICV) in another than a guest space, as they act on whichever guest is loaded.
    Map = 15,
    /// Binds scheduling context `a0` (`CONTROL`) to thread or vCPU `a1` (`CONTROL`) and starts it.
    /// Errors: `Busy`, `WrongCpu`.
    BindSched = 16,
    /// Binds notification `a1` (`WAIT`) to vCPU `a0` (`CONTROL`): the kick. Any signal ends guest
    /// mode or a halt and arrives as [`crate::vcpu::ExitKind::Kick`] with the bits. Errors: `Busy`.
    BindKick = 17,
    /// Binds interrupt `a0` (`CONTROL`) to notification `a1` (`SIGNAL`, with its badge);
    /// `a2` = [`TriggerMode`]; it is unmasked. From delivery to [`Op::InterruptAck`] it stays masked.
    InterruptBind = 18,
    /// Acknowledges interrupt `a0` (`CONTROL`): unmasks it.
    InterruptAck = 19,
    /// Queries domain `a0` (`CONTROL`): returns `a1` = quota, `a2` = used, in pages.
    QuotaQuery = 20,
    /// Appends `a1` (0 to 56) bytes, packed little-endian in `a2`–`a8`, to the log `a0` (`WRITE`).
    LogWrite = 21,
    /// Takes up to 56 bytes from the log `a0` (`READ`): returns `a1` = count, bytes in
    /// `a2`–`a8`; 0 when it is empty. `a1` = 1 also stops the kernel's own output to its UART.
    LogRead = 22,
    /// Binds the log `a0` (`READ`) to notification `a1` (`SIGNAL`): signalled when it becomes
    /// non-empty.
    LogBind = 23,
    /// Ends the machine by way of platform `a0` (`CONTROL`): `a1` = [`PowerAction`]. Does not return if it
    /// succeeds. Errors: `Unsupported` where firmware offers the kernel no such service (x86: ACPI's
    /// ports are the root task's).
    Power = 24,
    /// Gives domain `a1` (`CREATE`) `a2` pages more quota, of what is free of its payer's, `a0` (`CREATE`). Errors:
    /// `BadArgument` when another domain paid for `a1`; `Dead`.
    QuotaGive = 25,
    /// Takes `a2` pages of what is free back from the quota of domain `a1` (`CREATE`); they are free in its
    /// payer's, `a0` (`CREATE`), then. Errors: `BadArgument` when another domain paid for `a1`; `Dead`; `Quota`, which
    /// takes nothing.
    QuotaTake = 26,
    /// Binds a range of guest space `a1` (`INSTALL`) to notification `a0` (`SIGNAL`, with its badge): a guest's
    /// write there signals, and the guest goes on after it. `a2` = dst, which receives a mapping capability, derived
    /// from `a0`; `a3` = [`DoorbellKind`], `a4` = first address or port, `a5` = size, in bytes or ports. The access
    /// counts whose first byte is in the range, if it leaves guest mode: the range is not mapped writable. What is written
    /// is not kept. Reads, and writes that the processor does not describe well enough to go on after them, are exits
    /// as without a doorbell: string instructions to ports; on x86, all writes to memory under SVM, and under VMX those
    /// that read there too, or on a processor of another hypervisor; on Arm, those of more than one register, with
    /// write-back, or of AArch32. What else an x86 instruction does than to store is left out. Errors: `Occupied` when
    /// part of the range is bound, or [`MAX_DOORBELLS`] are.
    BindDoorbell = 27,
    /// Binds notification `a1` (`SIGNAL`, with its badge) to scheduling context `a0` (`CONTROL`): the overrun event. It is
    /// signalled, at most once in a period, when whoever runs on the scheduling context would go on and the budget is spent.
    /// Errors: `Busy`.
    BindOverrun = 28,
    /// Gives CPU `a1` a cyclic schedule, by time `a0` (`CONTROL`) with that CPU and of partition 0: a major frame of `a2` ticks
    /// that repeats, with the windows in the UTCB, [`WINDOW_WORDS`] words each: start in the frame and length, in ticks, and
    /// partition. They are at most [`MAX_WINDOWS`], in ascending order, apart and inside the frame. In a window the
    /// scheduling contexts of its partition run and no others; between windows none. It begins when the present frame
    /// ends, or at once where there is none; `a2` = 0, without windows, ends the schedule.
    SetSchedule = 29,
    /// Moves thread or vCPU `a0` (`CONTROL`) to CPU `a1`, with the scheduling context that is bound to it, of time `a2` (`CREATE`)
    /// with that CPU and, if there is a scheduling context, with its priority and partition. The portals that a thread handles are of that CPU
    /// then; `a3` = selector of a vCPU's portal for exit kind 0 from then on. Errors: `Busy` for who calls or
    /// helps, serves a call, or has been given a scheduling context just now; `Dead` for who never runs again.
    Migrate = 30,
}

/// Most windows of a cyclic schedule ([`Op::SetSchedule`]).
pub const MAX_WINDOWS: usize = 16;
/// Words of the UTCB that describe a window.
pub const WINDOW_WORDS: usize = 3;

/// What [`Op::Power`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PowerAction {
    /// Switches the machine off (PSCI SYSTEM_OFF).
    Off = 0,
    /// Resets it (PSCI SYSTEM_RESET).
    Reset = 1,
}

impl PowerAction {
    /// The action with this code, if there is one.
    pub const fn from_code(code: u64) -> Option<PowerAction> {
        Some(match code {
            0 => PowerAction::Off,
            1 => PowerAction::Reset,
            _ => return None,
        })
    }
}

/// Kind of an address space ([`Op::CreateSpace`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SpaceKind {
    /// User virtual addresses of native programs, and their I/O ports on x86.
    Host = 0,
    /// Guest-physical addresses of a VM.
    Guest = 1,
    /// Addresses that a device uses, in the format of guest spaces. No thread or vCPU runs in it.
    Device = 2,
}

impl SpaceKind {
    /// The kind with this code, if there is one.
    pub const fn from_code(code: u64) -> Option<SpaceKind> {
        Some(match code {
            0 => SpaceKind::Host,
            1 => SpaceKind::Guest,
            2 => SpaceKind::Device,
            _ => return None,
        })
    }
}

/// Most doorbells of a space ([`Op::BindDoorbell`]).
pub const MAX_DOORBELLS: usize = 128;

/// What the range of a doorbell is of ([`Op::BindDoorbell`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DoorbellKind {
    /// Guest-physical addresses.
    Memory = 0,
    /// I/O ports; there are none on Arm.
    Ports = 1,
}

impl DoorbellKind {
    /// The kind with this code, if there is one.
    pub const fn from_code(code: u64) -> Option<DoorbellKind> {
        Some(match code {
            0 => DoorbellKind::Memory,
            1 => DoorbellKind::Ports,
            _ => return None,
        })
    }
}

/// How a mapping is cached ([`Op::Map`]). Where the processor combines it with what a guest asks for, the guest may get
/// less caching than this, never more.
///
/// Of RAM that is mapped in different ways, programs see a write through one of them by another only after they have cleaned or
/// invalidated the caches as their processor's manual has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Caching {
    /// By the kind of the memory: RAM and firmware's tables write-back, device memory uncached.
    #[default]
    Natural = 0,
    /// Each access goes to the memory or device, in the order of the program. Arm: device memory nGnRE, in which
    /// accesses have to be aligned.
    Uncached = 1,
    /// Not cached, but writes may be gathered and accesses reordered. Arm: normal memory, non-cacheable.
    WriteCombining = 2,
}

impl Caching {
    /// The caching with this code, if there is one.
    pub const fn from_code(code: u64) -> Option<Caching> {
        Some(match code {
            0 => Caching::Natural,
            1 => Caching::Uncached,
            2 => Caching::WriteCombining,
            _ => return None,
        })
    }

    /// In its place in `a6` of [`Op::Map`].
    pub const fn bits(self) -> u64 {
        (self as u64) << Caching::SHIFT
    }

    /// Its place in `a6` of [`Op::Map`].
    pub const SHIFT: u32 = 16;
}

/// Trigger mode of an interrupt line ([`Op::InterruptBind`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TriggerMode {
    /// What the firmware's tables say of the line; ISA default edge, active high.
    Default = 0,
    /// Edge, active high.
    Edge = 1,
    /// Level, active low.
    Level = 2,
}

impl TriggerMode {
    /// The mode with this code, if there is one.
    pub const fn from_code(code: u64) -> Option<TriggerMode> {
        Some(match code {
            0 => TriggerMode::Default,
            1 => TriggerMode::Edge,
            2 => TriggerMode::Level,
            _ => return None,
        })
    }
}

bitflags::bitflags! {
    /// Flags of [`Op::CreateThread`], in their places in `a4`. A thread keeps them as long as it lives.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct ThreadFlags: u64 {
        /// The thread's system calls are not the kernel's: each of them, whatever its number and arguments, is told to
        /// the handler of the thread's exceptions as [`crate::utcb::exception::SYSTEM_CALL`]. So the thread can
        /// neither call nor be called.
        const FOREIGN = 1 << 32;
    }
}

bitflags::bitflags! {
    /// Flags of [`Op::Delegate`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DelegateFlags: u64 {
        /// Grant: the capability moves, with its place in the tree; `a3`–`a5` are ignored.
        const GRANT = 1 << 0;
    }
}

/// `rax` or `x0` on entry and on return: operation or status (bits 0–7), the number of capabilities (bits 8–11) and of words in the
/// UTCB (bits 16–31) of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Tag(pub u64);

impl Tag {
    /// The tag of operation `op` with `words` words in the UTCB.
    pub const fn new(op: Op, words: u16) -> Tag {
        Tag(op as u64 | (words as u64) << 16)
    }

    /// The tag of a result.
    pub const fn result(status: Status, words: u16) -> Tag {
        Tag(status as u64 | (words as u64) << 16)
    }

    /// The operation's number.
    pub const fn op(self) -> u8 {
        self.0 as u8
    }

    /// The status of a result.
    pub const fn status(self) -> Status {
        Status::from_code(self.0 as u8)
    }

    /// Words of the UTCB that belong to the message; at most [`crate::utcb::WORDS`].
    pub const fn utcb_words(self) -> usize {
        (self.0 >> 16) as u16 as usize
    }

    /// The same tag for a message with `items` capabilities; at most [`crate::utcb::ITEMS`].
    pub const fn with_items(self, items: usize) -> Tag {
        Tag(self.0 & !(0xf << 8) | ((items & 0xf) as u64) << 8)
    }

    /// Capabilities that belong to the message ([`crate::utcb::Item`]).
    pub const fn items(self) -> usize {
        (self.0 >> 8 & 0xf) as usize
    }

    /// Whether a reserved bit is set.
    pub const fn has_reserved(self) -> bool {
        self.0 & !0xffff_0fff != 0
    }
}
