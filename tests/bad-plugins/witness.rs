//! A library that looks like a plugin from outside, and tells when any of it runs: its constructor leaves a mark, and
//! then does what its orders say. The tests compile it once and change its bytes.

use std::{
    fs,
    hint::black_box,
    process::{Command, abort, exit, id},
    thread,
};

/// What the host reads from the file.
#[used]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bottle_plugin")]
static BOTTLE_PLUGIN_DESCRIPTOR: [u8; 224] = *include_bytes!(env!("DESCRIPTOR"));

/// What it looks for in the loaded library.
#[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
static HEADER: [u8; 40] = *include_bytes!(env!("HEADER"));

/// `ORDERS|<deed>|<path of the mark>|`, written over in the file.
static ORDERS: [u8; 256] = *include_bytes!(env!("ORDERS"));

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

extern "C" fn constructor() {
    let mut orders = black_box(&ORDERS).split(|b| *b == b'|').map(|word| str::from_utf8(word).unwrap_or_default());
    let (deed, mark) = (orders.nth(1).unwrap_or_default(), orders.next().unwrap_or_default());
    let _ = fs::write(mark, "");
    match deed {
        "exit" => exit(0),
        "abort" => abort(),
        "hang" => wait(),
        "crash" => {
            let _ = Command::new("/bin/sh").args(["-c", &format!("while kill -SEGV {}; do :; done", id())]).spawn();
            wait();
        }
        "leave" => {
            let left = Command::new("/bin/sleep").arg("600").spawn().map(|child| child.id());
            let _ = fs::write(mark, left.map(|pid| pid.to_string()).unwrap_or_default());
            exit(0);
        }
        _ => {}
    }
}

fn wait() {
    loop {
        thread::park();
    }
}
