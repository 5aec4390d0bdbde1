//! stub
use crate::addr::HostPhys;
use crate::mem::KernelPage;
use crate::vcpu::Exit;
use abi::boot::Virtualization;
use abi::vcpu::x86_64::{Groups, VcpuState};
pub struct Features { pub xcr0: u64 }
pub fn features() -> &'static Features { &Features { xcr0: 1 } }
pub fn detect() -> Virtualization { Virtualization::None }
pub fn pages_per_vcpu() -> usize { 2 }
pub fn physical_end() -> u64 { 1 << 36 }
pub struct CpuVirt;
impl CpuVirt { pub fn new() -> CpuVirt { CpuVirt } }
pub unsafe fn init_cpu(_: &mut CpuVirt, _: KernelPage) -> Result<(), &'static str> { Ok(()) }
pub struct GuestRoot { pub root: HostPhys, pub tag: u16, pub flush: bool }
pub enum Outcome { Exit(Exit), HostInterrupt { vector: Option<u8> }, HostNmi, Resume }
pub struct VcpuArch;
impl VcpuArch {
    pub unsafe fn new(_: &[KernelPage], _: *mut VcpuState) -> VcpuArch { VcpuArch }
    pub fn enter(&mut self, _: &mut CpuVirt, _: &GuestRoot) -> Outcome { Outcome::Resume }
    pub fn save(&mut self, _: Groups) {}
    pub fn load(&mut self, _: Groups) {}
    pub fn leave_cpu(&mut self, _: &mut CpuVirt) {}
}
