//! Status codes: the result of every system call.

macro_rules! statuses {
    ($($(#[doc = $doc:literal])* $name:ident = $value:literal,)*) => {
        /// Result of a system call. Zero is success; everything else names the cause.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Status { $($(#[doc = $doc])* $name = $value,)* }

        impl Status {
            /// Every status, in ascending order of code.
            pub const ALL: &'static [Status] = &[$(Status::$name,)*];

            /// The status with code `code`; an unknown code is [`Status::Unknown`].
            pub const fn from_code(code: u8) -> Status {
                match code { $($value => Status::$name,)* _ => Status::Unknown }
            }

            /// What it means, for the specification.
            pub const fn description(self) -> &'static str {
                match self { $(Status::$name => concat!($($doc),*),)* }
            }

            /// The identifier of the status, for messages.
            pub const fn name(self) -> &'static str {
                match self { $(Status::$name => stringify!($name),)* }
            }
        }
    };
}

statuses! {
    /// The operation was carried out.
    Success = 0,
    /// No operation has this number.
    BadOperation = 1,
    /// The selector names no capability, or one of another kind than the operation needs.
    BadCapability = 2,
    /// The capability lacks a right that the operation needs.
    Denied = 3,
    /// An argument is out of its range, misaligned, or a reserved bit is set.
    BadArgument = 4,
    /// The destination selector is outside the table.
    BadSelector = 5,
    /// The destination selector or address range is in use.
    Occupied = 6,
    /// The paying domain's quota of kernel memory is exhausted. `a1` says whose: of the domain that argument 0 or 1
    /// names, or that pays for the space which it names.
    Quota = 7,
    /// The portal's handler or the context belongs to another CPU.
    WrongCpu = 8,
    /// The object already has what may be bound only once (waiter, scheduling context, handler).
    Busy = 9,
    /// The deadline passed, or a poll found nothing.
    Timeout = 10,
    /// The other side was destroyed.
    Dead = 11,
    /// The call would wait for itself.
    Deadlock = 12,
    /// The chain of calls is longer than [`crate::MAX_CALL_DEPTH`].
    Depth = 13,
    /// The machine has no such feature.
    Unsupported = 14,
    /// The operation was aborted because an object that it waits on went away.
    Aborted = 15,
    /// The receiver's window has no room for the capabilities of the message.
    NoWindow = 16,
    /// A code that this version does not know. The kernel never returns it.
    Unknown = 255,
}

/// A set of statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusSet(u32);

impl StatusSet {
    /// None.
    pub const EMPTY: StatusSet = StatusSet(0);

    /// These. None of them is [`Status::Unknown`], which is not returned.
    pub const fn of(statuses: &[Status]) -> StatusSet {
        let (mut set, mut i) = (StatusSet::EMPTY, 0);
        while i < statuses.len() {
            set = set.with(statuses[i]);
            i += 1;
        }
        set
    }

    /// These and `status`.
    pub const fn with(self, status: Status) -> StatusSet {
        StatusSet(self.0 | 1 << status as u8)
    }

    /// Those of both.
    pub const fn union(self, other: StatusSet) -> StatusSet {
        StatusSet(self.0 | other.0)
    }

    /// Whether `status` is one of them.
    pub const fn contains(self, status: Status) -> bool {
        (status as u8) < 32 && self.0 >> status as u8 & 1 != 0
    }

    /// Each of them, in ascending order of code.
    pub fn iter(self) -> impl Iterator<Item = Status> {
        let all = Status::ALL.iter().copied();
        all.filter(move |&status| self.contains(status))
    }
}

#[cfg(test)]
mod tests {
    use super::Status;

    #[test]
    fn codes_round_trip() {
        for &status in Status::ALL {
            assert_eq!(Status::from_code(status as u8), status);
        }
        assert_eq!(Status::from_code(200), Status::Unknown);
    }
}
