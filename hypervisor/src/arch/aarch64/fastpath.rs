//! The entry of system calls, with the fast path of `Call` and `ReplyWait`, and the fast way back to a monitor.
//!
//! It means what `crate::ipc` says, for the common case: no words in the UTCB, the other side is on this CPU, the
//! handler is idle, and nobody else waits. Whatever is unusual is found before anything is changed, and goes on
//! to the general path with all registers that the ABI preserves. The message registers `x2` to `x9` are not touched
//! at all. Of the registers that a call scrubs, x10 is this CPU's data and x11 the thread that is current. They lie on the
//! stack, and the value of x0 is known: so the system call of a foreign thread goes on with all of its registers.
//!
//! The labels `stage_...` say what is behind them to who looks at what a path executes (`bench`); nothing goes there.

use super::CpuArch;
use super::entry::{cause, pairs};
use super::frame::offset as frame;
use crate::context::{ReplyPath, State};
use crate::cpu::Cpu;
use crate::domain::offset as domain;
use crate::notification::offset as notification;
use crate::portal::offset as portal;
use crate::slot::offset as slot;
use crate::space::Space;
use crate::thread::Thread;
use abi::cap::Kind;
use abi::{MAX_CALL_DEPTH, Op, Rights, Status};
use core::arch::{global_asm, naked_asm};
use core::mem::offset_of;

const SPACE: usize = offset_of!(Cpu, arch) + offset_of!(CpuArch, space);
const IDLE_HERE: usize = offset_of!(Cpu, arch) + offset_of!(CpuArch, idle_here);
const FRAME: usize = offset_of!(Thread, frame);
const SP: usize = FRAME + frame::SP;

/// The highest number of an operation; all below are operations, too.
const LAST: u8 = Op::ALL[Op::ALL.len() - 1] as u8;

// What the assembly takes for granted.
const _: () = {
    assert!(LAST as usize == Op::ALL.len() - 1);
    assert!(offset_of!(Thread, context) == 0 && offset_of!(Cpu, arch) == 0);
    assert!(Op::Call as u8 == 0 && Op::ReplyWait as u8 == 1 && State::Ready as u32 == 0);
    assert!(offset_of!(Thread, context.state) == offset_of!(Thread, context.cpu) + 4);
    assert!(ReplyPath::Thread as u8 == 0 && frame::ELR == frame::SP + 8);
    assert!(domain::SLOTS == domain::DIRECTORY + 8 && SPACE == IDLE_HERE + 8);
    assert!(crate::domain::SLOTS_PER_PAGE == 64 && (Kind::Portal as u64) < 64);
};

/// Clears what calls and replies leave undefined, x10 to x18.
macro_rules! scrub {
    () => {
        "mov x10, xzr
        mov x11, xzr
        mov x12, xzr
        mov x13, xzr
        mov x14, xzr
        mov x15, xzr
        mov x16, xzr
        mov x17, xzr
        mov x18, xzr"
    };
}

/// Goes on with the thread at `$thread` (a register of those scrubbed, but x16 to x18), whose x0 to x9 are in place.
macro_rules! leave_to {
    ($thread:literal) => {
        concat!(
            "ldp x16, x17, [",
            $thread,
            ", #{sp}]\n",
            "ldr x18, [",
            $thread,
            ", #({sp} + 16)]\n",
            "msr sp_el0, x16\n",
            "msr elr_el2, x17\n",
            "msr spsr_el2, x18\n",
            pairs!(
                "ldp", "x", $thread, "{frame}", 8, 19 20, 21 22, 23 24, 25 26, 27 28, 29 30
            ),
            scrub!(),
            "\n",
            "eret\n",
            // No speculation past an exception return.
            "dsb nsh\n",
            "isb\n",
        )
    };
}

// Comes from the vector with x10 and x11 on the stack.
global_asm!(
    r#"
    .section .text.fastpath, "ax"
    // The registers that calls preserve, of the thread at x11.
    .macro save_thread
    "#,
    pairs!("stp", "x", "x11", "{frame}", 8, 19 20, 21 22, 23 24, 25 26, 27 28, 29 30),
    r#"
    mrs     x16, sp_el0
    mrs     x17, elr_el2
    mrs     x18, spsr_el2
    stp     x16, x17, [x11, #{sp}]
    str     x18, [x11, #({sp} + 16)]
    .endm

    // Finds the slot that x1 selects for the thread at x11: it is at x13 + x15. Changes x12 and x14.
    .macro find_slot none
    ldr     x12, [x11, #{thread_domain}]
    ldp     x13, x12, [x12, #{directory}]
    cmp     x1, x12
    b.hs    \none
    ubfx    x14, x1, #6, #26
    ubfiz   x15, x1, #6, #6
    ldr     x13, [x13, x14, lsl #3]
    .endm

    .global system_call_entry
system_call_entry:
    cbnz    x0, 20f

    // Call: x1 is the selector.
    mrs     x10, tpidr_el2
    ldr     x11, [x10, #{current}]
    ldrb    w0, [x11, #{foreign}]
    cbnz    w0, 9f
stage_message_call:
    find_slot 10f
    ldr     x13, [x13, x15]
    // The capability: right, kind, address.
    tbz     x13, #{call_right}, 10f
    and     x14, x13, #63
    cmp     x14, #{portal_kind}
    b.ne    10f
    and     x13, x13, #0xffffffffffc0
    // The handler: there, idle, on this CPU; the chain not too long.
    ldr     x14, [x13, #{handler}]
    cbz     x14, 10f
    ldr     x15, [x14, #{cpu_state}]
    ldp     x16, x17, [x10, #{idle_here}]
    cmp     x15, x16
    b.ne    10f
    ldrb    w15, [x11, #{depth}]
    add     w15, w15, #1
    cmp     w15, #{max_depth}
    b.hi    10f
    // Its space, if it is another one.
stage_switch_call:
    ldr     x16, [x14, #{thread_space}]
    cmp     x16, x17
    b.eq    2f
    ldr     x17, [x16, #{fast}]
    cbz     x17, 10f
    str     x16, [x10, #{space}]
    msr     vttbr_el2, x17
    msr     tpidr_el0, xzr
2:  // From here on it happens.
stage_save_call:
    add     sp, sp, #16
    save_thread
stage_switch_callee:
    strb    w15, [x14, #{depth}]
    mov     w15, #{in_call}
    str     w15, [x11, #{state}]
    str     x14, [x11, #{callee}]
    str     x11, [x14, #{caller}]
    str     wzr, [x14, #{state}]
    str     x14, [x10, #{current}]
    ldr     x1, [x13, #{identity}]
stage_load_callee:
    "#,
    leave_to!("x14"),
    r#"

    // An unusual ReplyWait or Call: nothing has happened yet. What held kernel addresses is scrubbed.
11: mov     x0, #{reply_wait}
10: add     sp, sp, #16
    "#,
    scrub!(),
    r#"
    stp     x0, x1, [sp, #-16]!
    mov     x1, #0
    b       lower_entry

20:
stage_entry_other:
    cmp     x0, #{reply_wait}
    b.ne    50f
stage_reply_wait:
    // ReplyWait: x12 is the caller. The reply path of a foreign thread is none of the fast ones.
    mrs     x10, tpidr_el2
    ldr     x11, [x10, #{current}]
    ldrb    w0, [x11, #{reply_path}]
    cbnz    w0, 40f
    ldr     x12, [x11, #{caller}]
    cbz     x12, 11b
stage_switch_reply:
    ldr     x16, [x12, #{thread_space}]
    ldr     x17, [x10, #{space}]
    cmp     x16, x17
    b.eq    3f
    ldr     x17, [x16, #{fast}]
    cbz     x17, 11b
    str     x16, [x10, #{space}]
    msr     vttbr_el2, x17
    msr     tpidr_el0, xzr
3:
stage_save_reply:
    add     sp, sp, #16
    save_thread
stage_switch_caller:
    mov     w15, #{idle}
    str     w15, [x11, #{state}]
    strb    wzr, [x11, #{depth}]
    str     xzr, [x11, #{caller}]
    str     xzr, [x12, #{callee}]
    str     wzr, [x12, #{state}]
    str     x12, [x10, #{current}]
    mov     x1, xzr
stage_load_caller:
    "#,
    leave_to!("x12"),
    r#"

    // ReplyWait to a vCPU: what its next call does not set is saved, the rest is not needed any more.
40:
stage_reply_vcpu:
    cmp     w0, #{to_vcpu}
    b.ne    41f
    add     sp, sp, #16
    save_thread
    mov     x0, x10
    mov     x1, x11
    mov     x29, xzr
    bl      {vcpu_reply}

    // Signal, if nobody is attached to the notification. x12 to x15 are saved; x13 is the slot, then x10 the notification, and
    // x12 the badge.
50:
stage_entry_signal:
    cmp     x0, #{signal}
    b.ne    60f
    mrs     x10, tpidr_el2
    ldr     x11, [x10, #{current}]
    ldrb    w10, [x11, #{foreign}]
    cbnz    w10, 30f
    stp     x12, x13, [sp, #-32]!
    stp     x14, x15, [sp, #16]
stage_message_signal:
    find_slot 53f
    add     x13, x13, x15
    // Capability and badge, as `Slot::badge` reads them: neither changes meanwhile.
    add     x14, x13, #{extra}
    ldar    x15, [x14]
    ldar    x10, [x13]
    add     x12, x13, #{first}
    ldar    x12, [x12]
    ldr     x11, [x13]
    ldr     x14, [x14]
    cmp     x11, x10
    b.ne    53f
    eor     x14, x14, x15
    lsr     x14, x14, #{turn_shift}
    cbnz    x14, 53f
    tbz     x10, #{signal_right}, 53f
    and     x11, x10, #63
    cmp     x11, #{notification_kind}
    b.ne    53f
    and     x10, x10, #0xffffffffffc0
    // From here on it happens. The release comes before the acquiring look at who is attached (B2.3.7: RCsc).
    add     x11, x10, #{word}
51: ldaxr   x14, [x11]
    orr     x14, x14, x12
    stlxr   w15, x14, [x11]
    cbnz    w15, 51b
    add     x11, x10, #{attached}
    ldarb   w14, [x11]
    cbnz    w14, 54f
    ldp     x14, x15, [sp, #16]
    ldp     x12, x13, [sp], #32
    ldp     x10, x11, [sp], #16
    mov     x0, xzr
    eret
    dsb     nsh
    isb

    // Somebody is attached.
54: mrs     x11, tpidr_el2
    str     x10, [x11, #{signalled}]
    ldp     x14, x15, [sp, #16]
    ldp     x12, x13, [sp], #32
    ldp     x10, x11, [sp], #16
    stp     x0, x1, [sp, #-16]!
    mov     x1, #{signalled_cause}
    b       lower_entry
    // Unusual: nothing has happened.
53: ldp     x14, x15, [sp, #16]
    ldp     x12, x13, [sp], #32
    b       30f

    // What no operation has as its number.
60:
stage_entry_unknown:
    and     x10, x0, #0xff
    cmp     x10, #{last}
    b.ls    30f
    mrs     x10, tpidr_el2
    ldr     x10, [x10, #{current}]
    ldrb    w10, [x10, #{foreign}]
    cbnz    w10, 30f
    ldp     x10, x11, [sp], #16
    mov     x0, #{bad_operation}
    eret
    dsb     nsh
    isb

    // No register is changed yet but x0, x10 and x11.
41: mov     x0, #{reply_wait}
    b       30f
9:  mov     x0, xzr
    // Other system calls: the general path.
30:
stage_entry_general:
    ldp     x10, x11, [sp], #16
    stp     x0, x1, [sp, #-16]!
    mov     x1, #0
    b       lower_entry
    "#,
    current = const offset_of!(Cpu, current),
    space = const SPACE,
    idle_here = const IDLE_HERE,
    directory = const domain::DIRECTORY,
    handler = const portal::HANDLER,
    identity = const portal::IDENTITY,
    fast = const offset_of!(Space, fast),
    thread_domain = const offset_of!(Thread, domain),
    thread_space = const offset_of!(Thread, space),
    caller = const offset_of!(Thread, caller),
    callee = const offset_of!(Thread, context.callee),
    foreign = const offset_of!(Thread, foreign),
    state = const offset_of!(Thread, context.state),
    cpu_state = const offset_of!(Thread, context.cpu),
    depth = const offset_of!(Thread, context.depth),
    reply_path = const offset_of!(Thread, context.reply_path),
    to_vcpu = const ReplyPath::Vcpu as u8,
    vcpu_reply = sym super::traps::vcpu_reply,
    frame = const FRAME,
    sp = const SP,
    call_right = const 48 + Rights::CALL.bits().trailing_zeros(),
    portal_kind = const Kind::Portal as u64,
    max_depth = const MAX_CALL_DEPTH,
    in_call = const State::InCall as u32,
    idle = const State::Idle as u32,
    reply_wait = const Op::ReplyWait as u8,
    signal = const Op::Signal as u8,
    last = const LAST,
    bad_operation = const Status::BadOperation as u8,
    first = const slot::FIRST,
    extra = const slot::EXTRA,
    turn_shift = const slot::TURN_SHIFT,
    word = const notification::WORD,
    attached = const notification::ATTACHED,
    signalled = const offset_of!(Cpu, signalled),
    signalled_cause = const cause::SIGNALLED,
    signal_right = const 48 + Rights::SIGNAL.bits().trailing_zeros(),
    notification_kind = const Kind::Notification as u64,
);

/// Returns from the `ReplyWait` of `handler`, or starts it, with a message of four words. Its space is loaded and it is
/// current. The arguments are where the handler gets them; `status` is 0.
#[unsafe(naked)]
pub extern "C" fn deliver(
    status: u64,
    identity: u64,
    first: u64,
    second: u64,
    third: u64,
    fourth: u64,
    handler: &Thread,
    stack_top: u64,
) -> ! {
    naked_asm!(
        "mov sp, x7",
        "mov x10, x6",
        "mov x6, xzr",
        "mov x7, xzr",
        "mov x8, xzr",
        "mov x9, xzr",
        leave_to!("x10"),
        sp = const SP,
        frame = const FRAME,
    )
}
