//! The async face.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use alknet_fs::{
    EventFilter, FsckOptions, ImportOptions, Op, OpenOptions, Options, Task, WatchOptions, aio,
};

async fn on_disk() -> (tempfile::TempDir, aio::Store, aio::Branch) {
    let dir = tempfile::tempdir().unwrap();
    let store = aio::Store::create(dir.path().join("store"), Options::new());
    let store = store.await.unwrap();
    let main = store.branch("default", "main").await.unwrap();
    (dir, store, main)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_operations_as_futures() {
    let (_dir, store, main) = on_disk().await;
    main.mkdir("/src").await.unwrap();
    let writes = (0..20).map(|i| {
        let main = main.clone();
        tokio::spawn(async move { main.write(&format!("/src/{i}"), "x").await })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap().unwrap();
    }
    assert_eq!(main.list("/src").await.unwrap().len(), 20);
    let agent = main.fork("agent").await.unwrap();
    agent.remove_all("/src").await.unwrap();
    assert!(main.exists("/src/7").await.unwrap());
    assert!(!agent.exists("/src/7").await.unwrap());
    let report = store.fsck(&FsckOptions::new(), &Task::new()).await.unwrap();
    assert_eq!(report.problems, []);
    let error = main.read("/missing").await.unwrap_err();
    assert!(error.is_not_found());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_survives_its_dropped_futures() {
    let (_dir, store, main) = on_disk().await;
    let options = WatchOptions {
        filter: EventFilter::all(),
        ..WatchOptions::default()
    };
    let mut watcher = store.watch(&options).await.unwrap();
    let short = tokio::time::timeout(Duration::from_millis(20), watcher.next());
    assert!(short.await.is_err(), "nothing happens yet");
    main.write("/a", "x").await.unwrap();
    let next = tokio::time::timeout(Duration::from_secs(20), watcher.next());
    assert_eq!(next.await.unwrap().unwrap().change.op, Op::Create);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_session_is_aborted_and_a_dropped_import_is_cancelled() {
    let (dir, store, main) = on_disk().await;
    let session = main.open_session("/f", &OpenOptions::new()).await.unwrap();
    session.write_at(0, "abc").await.unwrap();
    assert_eq!(session.read_at(1, 9).await.unwrap(), b"bc");
    drop(session);
    let gone = async {
        while !store.sessions().await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone)
        .await
        .unwrap();
    assert!(!main.exists("/f").await.unwrap());

    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    for i in 0..2000 {
        std::fs::write(source.join(i.to_string()), i.to_string()).unwrap();
    }
    let (options, task) = (ImportOptions::new(), Task::new());
    let import = main.import(&source, "/in", &options, &task);
    drop(tokio::time::timeout(Duration::ZERO, import).await);
    assert!(task.cancel().is_cancelled());
    let task = Task::new();
    let again = main.import(&source, "/in", &options, &task);
    assert_eq!(again.await.unwrap().files, 2000);
    assert_eq!(main.list("/in").await.unwrap().len(), 2000);
}
