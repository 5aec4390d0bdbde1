//! A plugin of QEMU that watches what a machine executes, for tests and the benchmark.
//!
//! `-plugin file=FILE,begin=ADDRESS,end=ADDRESS,out=FILE` watches what CPUs share ([`lines`]);
//! `-plugin file=FILE,kernel=ADDRESS,kernel_end=ADDRESS,out=FILE` what is executed between two looks at the counter
//! ([`paths`]). Numbers are decimal.

mod lines;
mod paths;
mod qemu;

use std::ffi::{CStr, c_char, c_int, c_void};

/// The version of the interface, which QEMU looks at.
#[unsafe(export_name = "qemu_plugin_version")]
pub static VERSION: c_int = 1;

/// QEMU loads the plugin. Not 0: it is told nothing that it could do.
///
/// # Safety
/// `arguments` are `count` strings of the form `NAME=VALUE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: u64,
    _info: *const c_void,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    let argument = |name: &str| {
        (0..count as usize).find_map(|index| {
            // SAFETY: the caller's word.
            let text = unsafe { CStr::from_ptr(*arguments.add(index)) };
            let (key, value) = text.to_str().ok()?.split_once('=')?;
            (key == name).then(|| value.to_owned())
        })
    };
    let address = |name| argument(name)?.parse().ok();
    let pair = |from, to| Some((address(from)?, address(to)?));
    let translated = match (argument("out"), pair("begin", "end"), pair("kernel", "kernel_end")) {
        (Some(out), Some((begin, end)), None) => lines::start(begin, end, out.into()),
        (Some(out), None, Some((from, to))) => paths::start(from..to, out.into()),
        _ => {
            eprintln!(
                "the arguments are begin=ADDRESS,end=ADDRESS,out=FILE or kernel=ADDRESS,kernel_end=ADDRESS,out=FILE"
            );
            return -1;
        }
    };
    // SAFETY: the identifier is that of this plugin, and the function stays.
    unsafe { qemu::qemu_plugin_register_vcpu_tb_trans_cb(id, translated) };
    0
}
