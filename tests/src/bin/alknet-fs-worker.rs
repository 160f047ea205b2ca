//! The process that the crash, power, fault and concurrency tests start, and end.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use alknet_fs_tests::{crowd, power, worker};

fn main() {
    // One thread that fails fails the process; the others may wait for it for ever.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        hook(info);
        std::process::abort();
    }));
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["work", store, mode] => {
            worker::serve(Path::new(store), serde_json::from_str(mode).unwrap());
        }
        ["power", plan] => {
            let plan = serde_json::from_str(plan).unwrap();
            let worker = std::env::current_exe().unwrap();
            match power::cut(&plan, &worker) {
                Ok(report) => println!("{}", serde_json::to_string(&report).unwrap()),
                Err(reason) => {
                    println!("{reason}");
                    std::process::exit(power::CANNOT_MOUNT);
                }
            }
        }
        ["crowd", plan] => {
            let report = crowd::work(&serde_json::from_str(plan).unwrap());
            println!("{}", serde_json::to_string(&report).unwrap());
        }
        ["watch", store, after, out] => {
            let store = alknet_fs::Store::open(store).unwrap();
            let after = alknet_fs::Cursor(after.parse().unwrap());
            crowd::watch(&store, after, std::fs::File::create(out).unwrap());
        }
        _ => panic!("unknown arguments: {args:?}"),
    }
}
