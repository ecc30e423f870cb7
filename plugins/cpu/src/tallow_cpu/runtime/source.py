"""The thread pool, as LLVM IR, and with the step walker (`walker.py`) the runtime of every artifact.

All state lies in memory that the opener gives (`STATE_BYTES`, zeroed), so the code itself stays
read-only. Workers spin for a bounded time and then sleep on a futex, and so does the caller while it
waits for them. One run at a time uses the pool; a run that finds it busy works on its own thread.

A parallel loop is a job behind a gate. The caller fills in the job and opens the gate with a new
generation and as many tickets as helpers are wanted; a worker that takes a ticket is counted active
until it finds no chunk left. The caller takes chunks too, then closes the gate and waits for active
workers only: one that wakes late finds the gate closed, and costs nothing.

Chunks are dealt out in as many runs as there are threads. A thread starts with the run of its number, the
same in every step, so that it finds in its own cache what it wrote in the step before; when its run is
done, it helps with the others.

State, by byte offset: 0 gate: active (16 bits), tickets (16), generation (32, a futex at 4); the low
half is the futex on which the caller waits · 64 function · 72 arguments · 80 sizes · 88 grid ·
96 chunk · 104 chunks in all · 112 runs · 192 caller is asleep · 256 sleeping workers · 320 busy · then the
imports of `IMPORTS` from 384 · 408 workers · 416 pauses before sleep · 424 workers that have a number ·
from 512, 64 bytes apart, the next chunk of each run.
"""

from __future__ import annotations

from typing import NamedTuple

from tallow_cpu.runtime.walker import NUMBERS, WALKER

INTERFACE = "3"  # of state, step table and entries: changes when any of them does
MAX_RUNS = 64
STATE_BYTES = 512 + 64 * MAX_RUNS
IMPORTS = {"syscall": 384, "pthread_create": 392, "clock_gettime": 400}
SPINS_AT = 416
MAX_ARGUMENTS = 256
ENTRIES = ("tallow_run", "tallow_start", "tallow_spin")


class Platform(NamedTuple):
    """What differs between processors on Linux: the futex call's number and the pause instruction."""

    futex: int
    pause: str
    declare: str


PLATFORMS = {
    "x86_64": Platform(202, "call void @llvm.x86.sse2.pause()", "declare void @llvm.x86.sse2.pause()"),
    "aarch64": Platform(98, "call void @llvm.aarch64.hint(i32 1)", "declare void @llvm.aarch64.hint(i32)"),
}


def runtime_ir(platform: Platform) -> str:
    """The module text for a processor; its functions are those of `ENTRIES`."""
    parts = (_WORK, _WORKER, _START, _PARALLEL, WALKER, platform.declare, _DECLARATIONS)
    text = "\n".join(parts).replace("PAUSE", platform.pause).replace("FUTEX", f"i64 {platform.futex}")
    numbers = NUMBERS | {"MAX_ARGUMENTS": MAX_ARGUMENTS, "SPINS_AT": SPINS_AT, "MAX_RUNS": MAX_RUNS}
    for name, number in numbers.items():
        text = text.replace(name, str(number))
    return text


_WORK = """
define internal void @drain(ptr %s, i64 %id) #0 {
entry:
 %fp = getelementptr i8, ptr %s, i64 64
 %fn = load ptr, ptr %fp
 %ap = getelementptr i8, ptr %s, i64 72
 %args = load ptr, ptr %ap
 %zp = getelementptr i8, ptr %s, i64 80
 %sizes = load ptr, ptr %zp
 %gp = getelementptr i8, ptr %s, i64 88
 %grid = load i64, ptr %gp
 %cp = getelementptr i8, ptr %s, i64 96
 %chunk = load i64, ptr %cp
 %tp = getelementptr i8, ptr %s, i64 104
 %chunks = load i64, ptr %tp
 %rp = getelementptr i8, ptr %s, i64 112
 %runs = load i64, ptr %rp
 br label %run
run:
 %k = phi i64 [0, %entry], [%k1, %over]
 %shifted = add i64 %id, %k
 %r = urem i64 %shifted, %runs
 %r1 = add i64 %r, 1
 %e1 = mul i64 %r1, %chunks
 %stop = udiv i64 %e1, %runs
 %o0 = mul i64 %r, 64
 %o1 = add i64 %o0, 512
 %np = getelementptr i8, ptr %s, i64 %o1
 br label %next
next:
 %i = atomicrmw add ptr %np, i64 1 acq_rel
 %more = icmp slt i64 %i, %stop
 br i1 %more, label %work, label %over
work:
 %begin = mul i64 %i, %chunk
 %e0 = add i64 %begin, %chunk
 %end = call i64 @llvm.smin.i64(i64 %e0, i64 %grid)
 call void %fn(ptr %args, ptr %sizes, i64 %begin, i64 %end)
 br label %next
over:
 %k1 = add i64 %k, 1
 %another = icmp slt i64 %k1, %runs
 br i1 %another, label %run, label %done
done:
 ret void
}

define void @tallow_spin(i64 %n) #0 {
entry:
 br label %spin
spin:
 %k = phi i64 [0, %entry], [%k1, %pause]
 %k1 = add i64 %k, 1
 %more = icmp slt i64 %k, %n
 br i1 %more, label %pause, label %done
pause:
 PAUSE
 br label %spin
done:
 ret void
}
"""

_WORKER = """
define internal ptr @worker(ptr %s) #0 {
entry:
 %gen = getelementptr i8, ptr %s, i64 4
 %wp = getelementptr i8, ptr %s, i64 192
 %sp = getelementptr i8, ptr %s, i64 256
 %cp = getelementptr i8, ptr %s, i64 384
 %sys = load ptr, ptr %cp
 %lp = getelementptr i8, ptr %s, i64 SPINS_AT
 %spins = load i64, ptr %lp
 %mp = getelementptr i8, ptr %s, i64 424
 %before0 = atomicrmw add ptr %mp, i64 1 seq_cst
 %id = add i64 %before0, 1
 br label %idle
idle:
 %seen = phi i32 [0, %entry], [%now, %shut], [%now, %finish], [%now, %last]
 br label %spin
spin:
 %k = phi i64 [0, %idle], [%k1, %pause], [0, %sleep], [0, %join]
 %gate = load atomic i64, ptr %s acquire, align 8
 %high = lshr i64 %gate, 32
 %now = trunc i64 %high to i32
 %new = icmp ne i32 %now, %seen
 br i1 %new, label %look, label %count
count:
 %k1 = add i64 %k, 1
 %tired = icmp sgt i64 %k1, %spins
 br i1 %tired, label %sleep, label %pause
pause:
 PAUSE
 br label %spin
sleep:
 %o = atomicrmw add ptr %sp, i32 1 seq_cst
 %r = call i64 (i64, ...) %sys(FUTEX, ptr %gen, i32 128, i32 %seen, ptr null, ptr null, i32 0)
 %p = atomicrmw sub ptr %sp, i32 1 seq_cst
 br label %spin
look:
 %tickets = and i64 %gate, 4294901760
 %open = icmp ne i64 %tickets, 0
 br i1 %open, label %join, label %shut
shut:
 br label %idle
join:
 %taken = sub i64 %gate, 65535
 %swap = cmpxchg ptr %s, i64 %gate, i64 %taken seq_cst monotonic
 %mine = extractvalue {i64, i1} %swap, 1
 br i1 %mine, label %work, label %spin
work:
 call void @drain(ptr %s, i64 %id)
 %before = atomicrmw sub ptr %s, i64 1 seq_cst
 %active = and i64 %before, 65535
 %islast = icmp eq i64 %active, 1
 %waits = load atomic i32, ptr %wp seq_cst, align 4
 %asleep = icmp ne i32 %waits, 0
 %wake = and i1 %islast, %asleep
 br i1 %wake, label %last, label %finish
last:
 %r2 = call i64 (i64, ...) %sys(FUTEX, ptr %s, i32 129, i32 1, ptr null, ptr null, i32 0)
 br label %idle
finish:
 br label %idle
}
"""

_START = """
define i64 @tallow_start(ptr %s, i64 %n) #0 {
entry:
 %t = alloca i64
 %cp = getelementptr i8, ptr %s, i64 392
 %create = load ptr, ptr %cp
 %wp = getelementptr i8, ptr %s, i64 408
 br label %head
head:
 %i = phi i64 [0, %entry], [%j, %made]
 %more = icmp slt i64 %i, %n
 br i1 %more, label %make, label %done
make:
 %r = call i32 %create(ptr %t, ptr null, ptr @worker, ptr %s)
 %ok = icmp eq i32 %r, 0
 br i1 %ok, label %made, label %done
made:
 %j = add i64 %i, 1
 store i64 %j, ptr %wp
 br label %head
done:
 %started = load i64, ptr %wp
 ret i64 %started
}
"""

_PARALLEL = """
define internal void @parallel(ptr %s, ptr %fn, ptr %args, ptr %sizes, i64 %grid, i64 %chunk, i64 %helpers) #0 {
entry:
 %fp = getelementptr i8, ptr %s, i64 64
 store ptr %fn, ptr %fp
 %ap = getelementptr i8, ptr %s, i64 72
 store ptr %args, ptr %ap
 %zp = getelementptr i8, ptr %s, i64 80
 store ptr %sizes, ptr %zp
 %gp = getelementptr i8, ptr %s, i64 88
 store i64 %grid, ptr %gp
 %cp = getelementptr i8, ptr %s, i64 96
 store i64 %chunk, ptr %cp
 %wp = getelementptr i8, ptr %s, i64 192
 %sp = getelementptr i8, ptr %s, i64 256
 %yp = getelementptr i8, ptr %s, i64 384
 %sys = load ptr, ptr %yp
 %lp = getelementptr i8, ptr %s, i64 SPINS_AT
 %spins = load i64, ptr %lp
 %gen = getelementptr i8, ptr %s, i64 4
 %rest = sub i64 %grid, 1
 %others = udiv i64 %rest, %chunk
 %tickets = call i64 @llvm.smin.i64(i64 %helpers, i64 %others)
 %chunks = add i64 %others, 1
 %tp = getelementptr i8, ptr %s, i64 104
 store i64 %chunks, ptr %tp
 %wanted = add i64 %tickets, 1
 %runs = call i64 @llvm.smin.i64(i64 %wanted, i64 MAX_RUNS)
 %rp = getelementptr i8, ptr %s, i64 112
 store i64 %runs, ptr %rp
 br label %deal
deal:
 %d = phi i64 [0, %entry], [%d1, %deal]
 %e0 = mul i64 %d, %chunks
 %first = udiv i64 %e0, %runs
 %o0 = mul i64 %d, 64
 %o1 = add i64 %o0, 512
 %np = getelementptr i8, ptr %s, i64 %o1
 store atomic i64 %first, ptr %np release, align 8
 %d1 = add i64 %d, 1
 %dealing = icmp slt i64 %d1, %runs
 br i1 %dealing, label %deal, label %open
open:
 %was = load atomic i64, ptr %s monotonic, align 8
 %later = add i64 %was, 4294967296
 %low = shl i64 %tickets, 16
 %gate = or i64 %later, %low
 store atomic i64 %gate, ptr %s seq_cst, align 8
 %sleeping = load atomic i32, ptr %sp seq_cst, align 4
 %any = icmp sgt i32 %sleeping, 0
 br i1 %any, label %wake, label %work
wake:
 %n32 = trunc i64 %tickets to i32
 %r = call i64 (i64, ...) %sys(FUTEX, ptr %gen, i32 129, i32 %n32, ptr null, ptr null, i32 0)
 br label %work
work:
 call void @drain(ptr %s, i64 0)
 %closed = atomicrmw and ptr %s, i64 -4294901761 seq_cst
 br label %wait
wait:
 %k = phi i64 [0, %work], [%k1, %pause]
 %g = load atomic i64, ptr %s acquire, align 8
 %active = and i64 %g, 65535
 %done = icmp eq i64 %active, 0
 br i1 %done, label %out, label %count
count:
 %k1 = add i64 %k, 1
 %tired = icmp sgt i64 %k1, %spins
 br i1 %tired, label %doze, label %pause
pause:
 PAUSE
 br label %wait
doze:
 store atomic i32 1, ptr %wp seq_cst, align 4
 br label %check
check:
 %g2 = load atomic i32, ptr %s seq_cst, align 4
 %done2 = icmp eq i32 %g2, 0
 br i1 %done2, label %rise, label %sleep
sleep:
 %r2 = call i64 (i64, ...) %sys(FUTEX, ptr %s, i32 128, i32 %g2, ptr null, ptr null, i32 0)
 br label %check
rise:
 store atomic i32 0, ptr %wp seq_cst, align 4
 br label %out
out:
 ret void
}
"""

_DECLARATIONS = """
declare i64 @llvm.smin.i64(i64, i64)
attributes #0 = { nounwind "no-builtins" }
"""
