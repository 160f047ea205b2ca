//! Files in memory, with faults and power cuts: test support.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::files::{Area, FileHandle, Files, Listed};

/// What an injected fault does to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call fails with an input/output error and does nothing.
    Io,
    /// The call fails because the disk is full; a write has written half of its bytes.
    NoSpace,
    /// A write writes half of its bytes and says so; other calls are not touched.
    ShortWrite,
    /// The process dies: this call and all later ones fail and do nothing, until
    /// [`SimFiles::restart`] or [`SimFiles::power_cut`].
    Death,
}

/// Files in memory for tests: any call can be made to fail, and a power cut loses all that was not
/// synced, names included.
///
/// Clones share the same files.
#[derive(Debug, Clone, Default)]
pub struct SimFiles {
    shared: Arc<Mutex<Sim>>,
}

type Names = BTreeMap<String, Arc<Mutex<Inode>>>;

#[derive(Debug, Default)]
struct Sim {
    now: [Names; 2],
    on_disk: [Names; 2],
    calls: u64,
    fault: Option<(u64, Fault)>,
    dead: bool,
    boot: u64,
    no_links: bool,
    moved: u64,
}

#[derive(Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    owner: Weak<()>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Sim {
    /// Counts a call; returns the fault it has to show, or fails where it is not a write.
    fn call(&mut self, is_write: bool) -> io::Result<Option<Fault>> {
        self.calls += 1;
        if self.dead {
            return Err(io::Error::other("the process is dead"));
        }
        let Some((_, fault)) = self.fault.take_if(|(at, _)| *at == self.calls) else {
            return Ok(None);
        };
        match fault {
            Fault::Io => Err(io::Error::other("injected fault")),
            Fault::Death => {
                self.dead = true;
                Err(io::Error::other("the process is dead"))
            }
            Fault::NoSpace if !is_write => Err(io::ErrorKind::StorageFull.into()),
            Fault::ShortWrite if !is_write => Ok(None),
            Fault::NoSpace | Fault::ShortWrite => Ok(Some(fault)),
        }
    }

    fn find(&self, area: Area, name: &str) -> io::Result<Arc<Mutex<Inode>>> {
        let names = &self.now[area as usize];
        names.get(name).cloned().ok_or_else(not_found)
    }
}

impl SimFiles {
    /// Starts without files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts without files, on a file system that has no hard links.
    pub fn without_links() -> Self {
        let files = Self::new();
        locked(&files.shared).no_links = true;
        files
    }

    /// Returns the number of bytes read and written so far.
    pub fn moved(&self) -> u64 {
        locked(&self.shared).moved
    }

    /// Returns the number of calls made so far, those to open files included.
    pub fn calls(&self) -> u64 {
        locked(&self.shared).calls
    }

    /// Lets the `n`-th call from now (1 is the next) show a fault.
    pub fn fail_after(&self, n: u64, fault: Fault) {
        let mut sim = locked(&self.shared);
        sim.fault = Some((sim.calls + n, fault));
    }

    /// Takes back a fault that did not show yet; returns whether there was one.
    pub fn clear_fault(&self) -> bool {
        locked(&self.shared).fault.take().is_some()
    }

    /// Starts a new process: all that was written is there, and nobody owns a file.
    ///
    /// Drop the handles that are open before.
    pub fn restart(&self) {
        let mut sim = locked(&self.shared);
        for inode in sim.now.iter().flat_map(BTreeMap::values) {
            locked(inode).owner = Weak::new();
        }
        sim.fault = None;
        sim.dead = false;
    }

    /// Loses all bytes and names that were not synced, and starts the machine again.
    ///
    /// Drop the handles that are open before.
    pub fn power_cut(&self) {
        self.restart();
        let mut sim = locked(&self.shared);
        sim.now = sim.on_disk.clone();
        for inode in sim.now.iter().flat_map(BTreeMap::values) {
            let mut inode = locked(inode);
            inode.bytes = inode.synced.clone();
            inode.owner = Weak::new();
        }
        sim.boot += 1;
    }

    /// Flips one bit of a file, on the disk too.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where there is no such file, or it is shorter.
    pub fn flip_bit(&self, area: Area, name: &str, byte: u64) -> io::Result<()> {
        let inode = locked(&self.shared).find(area, name)?;
        let mut inode = locked(&inode);
        let at = usize::try_from(byte).unwrap_or(usize::MAX);
        *inode.bytes.get_mut(at).ok_or_else(not_found)? ^= 1;
        if let Some(synced) = inode.synced.get_mut(at) {
            *synced ^= 1;
        }
        Ok(())
    }

    fn handle(&self, inode: Arc<Mutex<Inode>>, owns: Option<Arc<()>>) -> Arc<dyn FileHandle> {
        Arc::new(SimFile {
            shared: self.shared.clone(),
            inode,
            _owns: owns,
        })
    }
}

impl Files for SimFiles {
    fn create(&self, area: Area, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        let mut sim = locked(&self.shared);
        sim.call(false)?;
        let names = &mut sim.now[area as usize];
        if names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let owns = Arc::new(());
        let inode = Arc::new(Mutex::new(Inode {
            owner: Arc::downgrade(&owns),
            ..Inode::default()
        }));
        names.insert(name.to_owned(), inode.clone());
        Ok(self.handle(inode, Some(owns)))
    }

    fn open(&self, area: Area, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        let mut sim = locked(&self.shared);
        sim.call(false)?;
        Ok(self.handle(sim.find(area, name)?, None))
    }

    fn reopen(&self, area: Area, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        let mut sim = locked(&self.shared);
        sim.call(false)?;
        let inode = sim.find(area, name)?;
        let owns = Arc::new(());
        let mut found = locked(&inode);
        if found.owner.strong_count() > 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        found.owner = Arc::downgrade(&owns);
        drop(found);
        Ok(self.handle(inode, Some(owns)))
    }

    fn is_owned(&self, area: Area, name: &str) -> io::Result<bool> {
        let mut sim = locked(&self.shared);
        sim.call(false)?;
        let inode = sim.find(area, name)?;
        let owned = locked(&inode).owner.strong_count() > 0;
        Ok(owned)
    }

    fn remove_unowned(&self, area: Area, name: &str) -> io::Result<bool> {
        let mut sim = locked(&self.shared);
        sim.call(false)?;
        let inode = sim.find(area, name)?;
        let owned = locked(&inode).owner.strong_count() > 0;
        if !owned {
            sim.now[area as usize].remove(name);
        }
        Ok(!owned)
    }

    fn publish(&self, staged: &str, blob: &str) -> io::Result<()> {
        let mut sim = locked(&self.shared);
        sim.call(false)?;
        let inode = sim.find(Area::Staging, staged)?;
        // As POSIX rename does with two names of one file.
        let same = sim.now[Area::Blobs as usize]
            .get(blob)
            .is_some_and(|old| Arc::ptr_eq(old, &inode));
        if !same {
            sim.now[Area::Staging as usize].remove(staged);
            sim.now[Area::Blobs as usize].insert(blob.to_owned(), inode);
        }
        Ok(())
    }

    fn link(&self, staged: &str, second: &str) -> io::Result<()> {
        let mut sim = locked(&self.shared);
        sim.call(false)?;
        if sim.no_links {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let inode = sim.find(Area::Staging, staged)?;
        let names = &mut sim.now[Area::Staging as usize];
        if names.contains_key(second) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        names.insert(second.to_owned(), inode);
        Ok(())
    }

    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        let mut sim = locked(&self.shared);
        sim.call(false)?;
        let names = &mut sim.now[Area::Staging as usize];
        let inode = names.remove(from).ok_or_else(not_found)?;
        names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, area: Area, name: &str) -> io::Result<()> {
        let mut sim = locked(&self.shared);
        sim.call(false)?;
        let removed = sim.now[area as usize].remove(name);
        removed.map(drop).ok_or_else(not_found)
    }

    fn list(&self, area: Area) -> io::Result<Vec<Listed>> {
        let mut sim = locked(&self.shared);
        sim.call(false)?;
        let names = sim.now[area as usize].iter();
        Ok(names
            .map(|(name, inode)| Listed {
                name: name.clone(),
                len: locked(inode).bytes.len() as u64,
                modified: None,
            })
            .collect())
    }

    fn sync_dir(&self, area: Area) -> io::Result<()> {
        let mut sim = locked(&self.shared);
        sim.call(false)?;
        sim.on_disk[area as usize] = sim.now[area as usize].clone();
        Ok(())
    }

    fn boot(&self) -> u64 {
        locked(&self.shared).boot
    }
}

#[derive(Debug)]
struct SimFile {
    shared: Arc<Mutex<Sim>>,
    inode: Arc<Mutex<Inode>>,
    _owns: Option<Arc<()>>,
}

impl SimFile {
    fn call(&self, is_write: bool) -> io::Result<Option<Fault>> {
        locked(&self.shared).call(is_write)
    }
}

fn index(offset: u64) -> io::Result<usize> {
    // No test keeps more than this in memory.
    usize::try_from(offset)
        .ok()
        .filter(|&at| at <= 1 << 32)
        .ok_or_else(|| io::ErrorKind::FileTooLarge.into())
}

impl FileHandle for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.call(false)?;
        let inode = locked(&self.inode);
        let tail = inode.bytes.get(index(offset)?..).unwrap_or_default();
        let n = tail.len().min(buf.len());
        buf[..n].copy_from_slice(&tail[..n]);
        drop(inode);
        locked(&self.shared).moved += n as u64;
        Ok(n)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let fault = self.call(true)?;
        let n = match fault {
            Some(_) => bytes.len() / 2,
            None => bytes.len(),
        };
        let at = index(offset)?;
        let mut inode = locked(&self.inode);
        if inode.bytes.len() < at + n {
            inode.bytes.resize(at + n, 0);
        }
        inode.bytes[at..at + n].copy_from_slice(&bytes[..n]);
        drop(inode);
        locked(&self.shared).moved += n as u64;
        match fault {
            Some(Fault::NoSpace) => Err(io::ErrorKind::StorageFull.into()),
            // A write of one byte has no half; a write of nothing would be an error.
            Some(_) if n == 0 && !bytes.is_empty() => Err(io::ErrorKind::Interrupted.into()),
            _ => Ok(n),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.call(false)?;
        locked(&self.inode).bytes.resize(index(len)?, 0);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        self.call(false)?;
        Ok(locked(&self.inode).bytes.len() as u64)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.call(false)?;
        let mut inode = locked(&self.inode);
        inode.synced = inode.bytes.clone();
        Ok(())
    }
}
