/** Errors in Node's shape. */

import { constants } from 'node:os';
import { getSystemErrorMap, inspect, types } from 'node:util';

/** An error of the store: as Node's own filesystem errors, with the store's kind of error added. */
export interface AlkError extends NodeJS.ErrnoException {
  /** What went wrong, in the store's words, for example `NotFound` or `Locked`. */
  kind: string;
  /** The store's own explanation, where it has one. */
  detail?: string;
  /** The second path of an operation on two. */
  dest?: string;
  /** Of a content that is not here: its hash. */
  content?: string;
  /**
   * Of a content that is not here: who was asked for it, by the name of each peer, or the beginning of
   * its key.
   */
  asked?: string[];
}

/** The kinds of which Node has its own words, which programs look for. */
const NODES = new Set([
  'NotFound',
  'AlreadyExists',
  'NotADirectory',
  'IsADirectory',
  'NotEmpty',
  'InvalidInput',
  'NameTooLong',
  'TooManyLinks',
  'ReadOnly',
  'BadHandle',
]);

/** What an error tells of the call that failed. */
export interface Call {
  syscall?: string;
  path?: string;
  dest?: string;
}

interface Packed {
  kind: string;
  code: string;
  errno: number;
  op: string | null;
  path: string | null;
  detail: string | null;
  source: string | null;
  content: string | null;
  asked: string[];
}

/** What Node has for a code, on this platform. */
const known = new Map<string, { errno: number; text: string }>();
for (const [errno, [code, text]] of getSystemErrorMap()) {
  known.set(code, { errno, text });
}

/** Makes an error; what Node has no code for has the number of Linux. */
function compose(code: string, kind: string, linux: number, text: string, call: Call): AlkError {
  let message = `${code}: ${text}`;
  if (call.syscall !== undefined) {
    message += `, ${call.syscall}`;
  }
  if (call.path !== undefined) {
    message += ` '${call.path}'`;
  }
  if (call.dest !== undefined) {
    message += ` -> '${call.dest}'`;
  }
  const error = new Error(message) as AlkError;
  error.errno = known.get(code)?.errno ?? -linux;
  error.code = code;
  if (call.syscall !== undefined) {
    error.syscall = call.syscall;
  }
  if (call.path !== undefined) {
    error.path = call.path;
  }
  if (call.dest !== undefined) {
    error.dest = call.dest;
  }
  hide(error, 'kind', kind);
  return error;
}

/** Adds what Node's errors do not have, so that it does not show where they are printed. */
function hide(error: Error, name: keyof AlkError, value: unknown) {
  Object.defineProperty(error, name, { value, configurable: true, writable: true });
}

/** Makes an error of a POSIX code. */
export function failure(code: keyof typeof constants.errno, kind: string, call: Call): AlkError {
  return compose(code, kind, constants.errno[code], known.get(code)?.text ?? code, call);
}

/** Tells errors, also those of another context than this one's. */
function isError(error: unknown): error is NodeJS.ErrnoException {
  return types.isNativeError(error);
}

/** Tells whether an error of the native module says that something is closed. */
export function isClosed(error: unknown): boolean {
  return unpack(error)?.kind === 'BadHandle';
}

function unpack(error: unknown): Packed | undefined {
  if (!isError(error) || !error.message.startsWith('{')) {
    return undefined;
  }
  return JSON.parse(error.message);
}

/** Turns the native module's refusal of an argument's type into Node's. */
function refused(error: unknown): unknown {
  const code = isError(error) ? error.code : undefined;
  if (code !== 'InvalidArg' && !code?.endsWith('Expected')) {
    return error;
  }
  const made = new TypeError(`An argument has the wrong type. ${(error as Error).message}`);
  return Object.assign(made, { code: 'ERR_INVALID_ARG_TYPE' });
}

/**
 * Makes the error that Node would have thrown from one of the native module. Without a call, the
 * operation and the path are those that the store names.
 */
export function rebuild(error: unknown, call?: Call): unknown {
  const packed = unpack(error);
  if (packed === undefined) {
    return refused(error);
  }
  const { kind, code } = packed;
  if (code === 'EINVAL' && (call?.path === '' || call?.dest === '')) {
    return failure('ENOENT', kind, call);
  }
  if (kind === 'TooLarge' && packed.op === 'read') {
    return tooLarge(packed.detail ?? code);
  }
  const own = call !== undefined && NODES.has(kind) ? undefined : packed.detail;
  let text = own ?? known.get(code)?.text ?? code;
  if (packed.source !== null) {
    text += ` (${packed.source})`;
  }
  const where = call ?? {
    ...(packed.op && { syscall: packed.op }),
    path: packed.path ?? undefined,
  };
  const made = compose(code, kind, packed.errno, text, where);
  if (packed.detail !== null) {
    hide(made, 'detail', packed.detail);
  }
  if (packed.content !== null) {
    hide(made, 'content', packed.content);
    hide(made, 'asked', packed.asked);
  }
  return made;
}

/** Makes the error of a file that is too large to be read at once. */
export function tooLarge(why: string): RangeError {
  const error = Object.assign(new RangeError(why), { code: 'ERR_FS_FILE_TOO_LARGE' });
  hide(error, 'kind', 'TooLarge');
  return error;
}

/** Makes the error of an operation that was aborted. */
export function aborted(signal?: AbortSignal): Error {
  const cause = signal === undefined ? undefined : { cause: signal.reason };
  const error = new Error('The operation was aborted', cause);
  return Object.assign(error, { code: 'ABORT_ERR', name: 'AbortError' });
}

/** Tells what was given, as Node does. */
function received(value: unknown): string {
  if (value === null || value === undefined) {
    return `Received ${value}`;
  }
  if (typeof value === 'function') {
    return `Received function ${value.name}`;
  }
  if (typeof value === 'object') {
    const name = value.constructor?.name;
    return name ? `Received an instance of ${name}` : `Received ${inspect(value, { depth: -1 })}`;
  }
  let shown = inspect(value, { colors: false });
  if (shown.length > 28) {
    shown = `${shown.slice(0, 25)}...`;
  }
  return `Received type ${typeof value} (${shown})`;
}

/** Makes the error of an argument that has the wrong type. */
export function wrongType(name: string, expected: string, value: unknown): TypeError {
  const what = name.includes('.') ? 'property' : 'argument';
  const message = `The "${name}" ${what} must be ${expected}. ${received(value)}`;
  return Object.assign(new TypeError(message), { code: 'ERR_INVALID_ARG_TYPE' });
}

/** Makes the error of an argument that has the wrong value. */
export function wrongValue(name: string, why: string, value: unknown): TypeError {
  let shown = inspect(value);
  if (shown.length > 128) {
    shown = `${shown.slice(0, 128)}...`;
  }
  const message = `The argument '${name}' ${why}. Received ${shown}`;
  return Object.assign(new TypeError(message), { code: 'ERR_INVALID_ARG_VALUE' });
}

/** Tells what somebody has to wait for. */
export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as PromiseLike<unknown> | null | undefined)?.then === 'function';
}

/** Makes the error of a function that gave the wrong thing. */
export function wrongResult(expected: string, name: string, value: unknown): TypeError {
  const given = received(value).replace(/^Received /, '');
  const message = `Expected ${expected} to be returned from the "${name}" function but got ${given}.`;
  return Object.assign(new TypeError(message), { code: 'ERR_INVALID_RETURN_VALUE' });
}

/** Makes the error of a number that is too small, too large or broken. */
export function outOfRange(name: string, expected: string, value: unknown): RangeError {
  const message = `The value of "${name}" is out of range. It must be ${expected}. Received ${value}`;
  return Object.assign(new RangeError(message), { code: 'ERR_OUT_OF_RANGE' });
}

/** Makes an error that Node's own `fs` makes without a system call. */
export function systemError(
  code: string,
  errno: keyof typeof constants.errno,
  text: string,
  call: { syscall: string; path: string },
  detail: string,
) {
  const message = `${text}: ${call.syscall} returned ${errno} (${detail}) ${call.path}`;
  const error = new Error(message) as NodeJS.ErrnoException;
  return Object.assign(error, { code, errno: constants.errno[errno], name: 'SystemError' }, call);
}
