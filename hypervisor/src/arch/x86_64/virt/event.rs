//! Events: what is injected into a guest, and what an exit interrupted.
//!
//! The ABI's format is that of the VM-entry interruption information of VMX with the error code in the
//! upper half (Intel SDM 3C 25.8.3), which is also that of EVENTINJ of SVM (AMD APM 2 15.20). The
//! processors differ in the types that they report for software events.

use abi::vcpu::x86_64::{
    EVENT_ERROR, EVENT_EXCEPTION, EVENT_INTERRUPT, EVENT_NMI, EVENT_SOFTWARE, EVENT_TYPE,
    EVENT_VALID,
};

use super::state::cr0::PE;

/// Debug exception.
pub(super) const DB: u8 = 1;
/// NMI.
const NMI: u8 = 2;
/// INT3.
const BP: u8 = 3;
/// INTO.
const OF: u8 = 4;
/// General protection.
pub(super) const GP: u8 = 13;
/// Alignment check.
pub(super) const AC: u8 = 17;
/// Machine check.
pub(super) const MC: u8 = 18;

/// Exceptions that are intercepted: a guest can make delivery of #DB and #AC raise themselves for ever,
/// which blocks the CPU (CVE-2015-5307, CVE-2015-8104); #MC is the machine's.
pub(super) const INTERCEPTED: u32 = 1 << DB | 1 << AC | 1 << MC;

const VECTOR: u64 = 0xff;

/// An event, or none, in the ABI's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event(pub u64);

impl Event {
    pub const NONE: Event = Event(0);

    /// An exception.
    pub const fn exception(vector: u8, error: Option<u32>) -> Event {
        let event = EVENT_VALID | EVENT_EXCEPTION | vector as u64;
        match error {
            Some(code) => Event(event | EVENT_ERROR | (code as u64) << 32),
            None => Event(event),
        }
    }

    pub const fn is_none(self) -> bool {
        self.0 & EVENT_VALID == 0
    }

    pub const fn is_nmi(self) -> bool {
        !self.is_none() && self.0 & EVENT_TYPE == EVENT_NMI
    }

    /// Whether losing it loses something that does not come back by itself.
    pub const fn is_external(self) -> bool {
        !self.is_none() && matches!(self.0 & EVENT_TYPE, EVENT_INTERRUPT | EVENT_NMI)
    }

    /// What of `inject`, a word that the monitor wrote, can be injected. A software event cannot: its
    /// instruction is executed again. A vector that does not fit the type is the processor's to refuse.
    pub const fn from_monitor(inject: u64) -> Event {
        if inject & EVENT_VALID == 0 {
            return Event::NONE;
        }
        let event = inject & (EVENT_VALID | EVENT_TYPE | VECTOR);
        match inject & EVENT_TYPE {
            EVENT_INTERRUPT => Event(event),
            EVENT_NMI => Event(EVENT_VALID | EVENT_NMI | NMI as u64),
            EVENT_EXCEPTION if inject & EVENT_ERROR != 0 => {
                Event(event | EVENT_ERROR | inject & 0xffff_ffff_0000_0000)
            }
            EVENT_EXCEPTION => Event(event),
            _ => Event::NONE,
        }
    }

    /// An event whose delivery was interrupted, from the IDT-vectoring information of VMX with the error
    /// code in the upper half, or from EXITINTINFO. Types 5 and 6 are software exceptions of VMX (ICEBP;
    /// INT3 and INTO), which SVM reports as exceptions 3 and 4.
    pub const fn from_processor(info: u64) -> Event {
        let is_software = match info & EVENT_TYPE {
            EVENT_INTERRUPT | EVENT_NMI => false,
            EVENT_EXCEPTION => matches!(info as u8, BP | OF),
            _ => true,
        };
        match is_software && info & EVENT_VALID != 0 {
            true => Event(EVENT_VALID | EVENT_SOFTWARE | info & VECTOR),
            false => Event::from_monitor(info),
        }
    }

    /// The event as the processor takes it, if it is to be injected into a guest with this CR0. Real mode has no error codes:
    /// VM entry of VMX refuses them there (Intel SDM 3C 27.2.1.3).
    pub const fn injectable(self, cr0: u64) -> Option<u64> {
        if self.is_none() || self.0 & EVENT_TYPE == EVENT_SOFTWARE {
            None
        } else if cr0 & PE == 0 {
            Some(self.0 & !EVENT_ERROR)
        } else {
            Some(self.0)
        }
    }
}
