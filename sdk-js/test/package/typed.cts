import { type Entry, memory, type SnapshotInfo } from 'alknet-fs';

const main = memory().bucket().branch();
main.fs.writeFileSync('/a.txt', 'one');
main.snapshotSync('v1');
const entry: Entry = main.entrySync('/a.txt');
const snapshots: SnapshotInfo[] = main.snapshotsSync();
if (entry.size !== 3 || snapshots[0]?.name !== 'v1') {
  throw new Error('that is not what was written');
}
