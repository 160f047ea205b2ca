/** The node that keeps a store's shared buckets the same as those of its peers. */

import { inspect } from 'node:util';

import { integer, toText, toTexts } from './arguments.js';
import { toObject } from './attributes.js';
import { later } from './calls.js';
import { wrongType } from './errors.js';
import type { NodeHandle, NodeSettings, ShareSettings, SyncStatus } from './native.js';
import type { TaskOptions } from './task.js';

/** How a node takes part in the network. */
export interface NodeOptions {
  /** Whether it listens on this machine only; otherwise on all its addresses. */
  loopback?: boolean;
  /** The port for UDP; otherwise a free one, and from then on the same again. */
  port?: number;
  /**
   * By whose help nodes are reached that cannot be reached directly: the addresses of relays, or `'n0'`
   * for those that n0 runs for everybody; otherwise nobody's.
   */
  relays?: 'n0' | string[];
  /** Whether it says on the local network, by mDNS, where it is, and looks there for its peers. */
  mdns?: boolean;
  /**
   * Whether it converses with nodes that others let into the same buckets, too, and finds out by gossip
   * who of them has news; otherwise it does.
   */
  gossip?: boolean;
}

/** What to share of a bucket: all of it, to read and to write, for good, unless stated. */
export interface ShareOptions {
  /** Whether who joins may only read. */
  readOnly?: boolean;
  /** Some branches rather than all; those that they inherit from can be read. */
  branches?: string | string[];
  /** After how many milliseconds nobody is let in any more. */
  expires?: number;
  /** What to call what was given, so that it is told from others. */
  name?: string;
}

/** How to join a bucket. */
export interface JoinOptions extends Pick<TaskOptions, 'signal'> {
  /** What to call it here; otherwise as where it is shared. */
  name?: string;
  /**
   * Whether a bucket of that name that is here already, and was never shared, becomes the joined one,
   * with all that both hold.
   */
  merge?: boolean;
  /**
   * How many milliseconds to wait for the answer of the node that gave the ticket; otherwise 10,000.
   */
  timeout?: number;
}

/** What runs, so that it is not collected as garbage. */
const held = new Set<NodeHandle>();

/**
 * A running node. One process of a store runs it, for all.
 *
 * It works in threads of its own until it is {@link Node.stop | stopped}, its store is closed, or the
 * process ends; it does not keep the process alive, and need not be held. With `await using` it stops at
 * the end of the block.
 */
export class Node {
  readonly #native: NodeHandle;

  /** @internal */
  constructor(handle: NodeHandle) {
    this.#native = handle;
    for (const other of held) {
      if (!other.running()) {
        held.delete(other);
      }
    }
    held.add(handle);
  }

  /** @internal */
  [inspect.custom](): string {
    return `Node ${this.id.slice(0, 10)}${this.running ? '' : ' (stopped)'}`;
  }

  /** The node's key, by which peers tell it from others. It stays with the store. */
  get id(): string {
    return this.#native.id();
  }

  /**
   * Whether it was neither stopped nor its store closed, and did not end by itself. It ends by itself
   * where it cannot go on, such as after its store was replaced; {@link Node.status} says why, and
   * {@link Node.stop} makes room for another one.
   */
  get running(): boolean {
    return this.#native.running();
  }

  /**
   * Tells how it stands with each peer and bucket at this moment. {@link Store.syncStatus} tells what
   * any process may know of it, up to a second later.
   */
  async status(): Promise<SyncStatus> {
    return later((later) => this.#native.status(later));
  }

  /** Stops the node: tells the peers, and waits until nothing of it works any more. */
  async stop(): Promise<void> {
    await later((later) => this.#native.stop(later));
    held.delete(this.#native);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

/** How long to wait until all is synced, and for which bucket. */
export interface WaitOptions extends Pick<TaskOptions, 'signal'> {
  /** Only this bucket; otherwise each that is shared or joined. */
  bucket?: string;
  /** For how many milliseconds; otherwise 60,000. */
  timeout?: number;
}

/** @internal */
export function toNodeSettings(options: NodeOptions | undefined): NodeSettings {
  const { loopback, port, relays, mdns, gossip } = toObject(options);
  if (port !== undefined) {
    integer(port, 'options.port', 0, 65_535);
  }
  if (relays !== undefined && relays !== 'n0' && !Array.isArray(relays)) {
    throw wrongType('options.relays', "'n0' or an instance of Array", relays);
  }
  return {
    loopback: loopback === true,
    n0: relays === 'n0',
    mdns: mdns === true,
    gossip: gossip !== false,
    ...(port === undefined ? {} : { port }),
    ...(Array.isArray(relays) && relays.length > 0
      ? { relays: toTexts(relays, 'options.relays') }
      : {}),
  };
}

/** @internal */
export function toShareSettings(options: ShareOptions | undefined): ShareSettings {
  const { readOnly, branches, expires, name } = toObject(options);
  return {
    readOnly: readOnly === true,
    ...(branches === undefined ? {} : { branches: toTexts([branches].flat(), 'options.branches') }),
    ...(expires === undefined ? {} : { expires }),
    ...(name === undefined ? {} : { name: toText(name, 'options.name') }),
  };
}
