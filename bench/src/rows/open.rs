//! Opening a store.

use alknet_fs::Store;
use anyhow::{Result, ensure};

use crate::fixtures::{million, open_main};
use crate::harness::{Bench, Times, settle};

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let rounds = bench.pick(51, 11);
    let (large, _) = million(bench)?;
    let dir = bench.dir()?;
    let empty = dir.join("empty");
    drop(Store::create(&empty)?);
    settle()?;
    let [mut opens, mut uses] = <[[Times; 2]; 2]>::default();
    for _ in bench.rounds("opening", rounds) {
        for (i, store) in [&large, &empty].into_iter().enumerate() {
            // Only the opening is timed; the store closes after it.
            drop(opens[i].time(1, || Ok(Store::open(store)?))?);
            let found = uses[i].time(1, || {
                let main = open_main(store)?;
                Ok((main.stat("/")?, main))
            })?;
            ensure!(found.0.is_dir());
        }
    }
    ensure!(open_main(&large)?.exists("/dir-00000/file-00999")?);
    for (work, [large, empty]) in [("open", opens), ("open and stat the root of", uses)] {
        let work = format!("{work} a store of 1,000,000 entries");
        bench.compare(work, &large, "the same with an empty store", &empty, 2.0);
    }
    Ok(())
}
