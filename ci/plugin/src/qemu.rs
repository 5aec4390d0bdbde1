//! The functions of QEMU's `qemu-plugin.h`, version 1, which QEMU 4.2 to 8 have.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// Instructions that are translated at once, one of them, and where an access goes; of QEMU.
pub type Block = c_void;
/// As [`Block`].
pub type Instruction = c_void;
/// As [`Block`].
pub type Place = c_void;

/// QEMU translates a block.
pub type Translated = unsafe extern "C" fn(id: u64, block: *mut Block);
/// A CPU has accessed memory.
pub type Accessed =
    unsafe extern "C" fn(cpu: c_uint, access: u32, address: u64, argument: *mut c_void);
/// A CPU is about to execute an instruction.
pub type Executed = unsafe extern "C" fn(cpu: c_uint, argument: *mut c_void);

unsafe extern "C" {
    pub fn qemu_plugin_register_vcpu_tb_trans_cb(id: u64, call: Translated);
    pub fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
    pub fn qemu_plugin_tb_get_insn(block: *const Block, index: usize) -> *mut Instruction;
    pub fn qemu_plugin_insn_vaddr(instruction: *const Instruction) -> u64;
    pub fn qemu_plugin_insn_data(instruction: *const Instruction) -> *const c_void;
    pub fn qemu_plugin_insn_size(instruction: *const Instruction) -> usize;
    /// The text is the caller's, who frees it by [`g_free`].
    pub fn qemu_plugin_insn_disas(instruction: *const Instruction) -> *mut c_char;
    pub fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut Instruction,
        call: Executed,
        registers: c_int,
        argument: *mut c_void,
    );
    pub fn qemu_plugin_register_vcpu_mem_cb(
        instruction: *mut Instruction,
        call: Accessed,
        registers: c_int,
        kinds: c_int,
        argument: *mut c_void,
    );
    pub fn qemu_plugin_mem_is_store(access: u32) -> bool;
    pub fn qemu_plugin_get_hwaddr(access: u32, address: u64) -> *mut Place;
    pub fn qemu_plugin_hwaddr_is_io(place: *const Place) -> bool;
    pub fn qemu_plugin_hwaddr_phys_addr(place: *const Place) -> u64;
    /// Of GLib, which QEMU is linked with.
    pub fn g_free(memory: *mut c_void);
}

/// The call back uses no registers (`QEMU_PLUGIN_CB_NO_REGS`).
pub const NO_REGISTERS: c_int = 0;
/// Reads and writes (`QEMU_PLUGIN_MEM_RW`).
pub const ALL_ACCESSES: c_int = 3;

/// The instructions of a block.
///
/// # Safety
/// It is QEMU's, as long as it translates it.
pub unsafe fn instructions(block: *mut Block) -> impl Iterator<Item = *mut Instruction> {
    // SAFETY: the caller's word.
    let count = unsafe { qemu_plugin_tb_n_insns(block) };
    // SAFETY: as above; the block has so many instructions.
    (0..count).map(move |index| unsafe { qemu_plugin_tb_get_insn(block, index) })
}
