"""The step walker, as LLVM IR: it goes through a table of kernel calls and of control flow between them.

A step in the table is i64s: function, argument count, size count, grid, chunk, then (base, offset)
for each argument, then the sizes. A step of control flow has a number of `FLOW` in place of the function,
and for sizes: the step that it may lead to, where that begins in the table (in bytes), and two numbers.

`tallow_run` returns the number of the step that stopped it, counted from 1, or 0. Where it is given room for times, it
adds to two i64s for each step: nanoseconds, and 1.
"""

from __future__ import annotations

FLOW = {
    "jump": 1,
    "unless": 2,
    "until": 3,
    "again": 4,
    "copy": 5,
    "row": 6,
    "exactly": 7,
    "stop": 8,
}
FUNCTIONS_FROM = 16  # a lower number is no function
NUMBERS = {"FUNCTIONS_FROM": FUNCTIONS_FROM} | {f"FLOW_{kind.upper()}": n for kind, n in FLOW.items()}

WALKER = """
define internal i64 @now(ptr %s, ptr %times) #0 {
entry:
 %ts = alloca [2 x i64]
 %off = icmp eq ptr %times, null
 br i1 %off, label %out, label %on
on:
 %cp = getelementptr i8, ptr %s, i64 400
 %clock = load ptr, ptr %cp
 %r = call i32 %clock(i32 1, ptr %ts)
 %sec = load i64, ptr %ts
 %np = getelementptr i64, ptr %ts, i64 1
 %nano = load i64, ptr %np
 %big = mul i64 %sec, 1000000000
 %all = add i64 %big, %nano
 ret i64 %all
out:
 ret i64 0
}

define internal i64 @note(ptr %s, ptr %times, i64 %i, i64 %since) #0 {
entry:
 %off = icmp eq ptr %times, null
 br i1 %off, label %out, label %on
on:
 %at = call i64 @now(ptr %s, ptr %times)
 %took = sub i64 %at, %since
 %two = mul i64 %i, 2
 %sp = getelementptr i64, ptr %times, i64 %two
 %s0 = load i64, ptr %sp
 %s1 = add i64 %s0, %took
 store i64 %s1, ptr %sp
 %rp = getelementptr i64, ptr %sp, i64 1
 %r0 = load i64, ptr %rp
 %r1 = add i64 %r0, 1
 store i64 %r1, ptr %rp
 ret i64 %at
out:
 ret i64 0
}

define internal void @copy(ptr %to, ptr %from, i64 %size) #0 {
entry:
 %whole = and i64 %size, -32
 br label %wide
wide:
 %i = phi i64 [0, %entry], [%i1, %move]
 %more = icmp slt i64 %i, %whole
 br i1 %more, label %move, label %rest
move:
 %p = getelementptr i8, ptr %from, i64 %i
 %v = load <4 x i64>, ptr %p, align 1
 %q = getelementptr i8, ptr %to, i64 %i
 store <4 x i64> %v, ptr %q, align 1
 %i1 = add i64 %i, 32
 br label %wide
rest:
 %j = phi i64 [%whole, %wide], [%j1, %byte]
 %left = icmp slt i64 %j, %size
 br i1 %left, label %byte, label %done
byte:
 %bp = getelementptr i8, ptr %from, i64 %j
 %b = load i8, ptr %bp
 %bq = getelementptr i8, ptr %to, i64 %j
 store i8 %b, ptr %bq
 %j1 = add i64 %j, 1
 br label %rest
done:
 ret void
}

define i64 @tallow_run(ptr %table, i64 %count, ptr %bases, ptr %s, i64 %threads, ptr %times) #0 {
entry:
 %args = alloca [MAX_ARGUMENTS x ptr], align 64
 %bp = getelementptr i8, ptr %s, i64 320
 %helpers = sub i64 %threads, 1
 %many = icmp sgt i64 %helpers, 0
 br i1 %many, label %try, label %start
try:
 %got = cmpxchg ptr %bp, i32 0, i32 1 acq_rel monotonic
 %mine0 = extractvalue {i32, i1} %got, 1
 br label %start
start:
 %mine = phi i1 [false, %entry], [%mine0, %try]
 %begin = call i64 @now(ptr %s, ptr %times)
 br label %step
step:
 %i = phi i64 [0, %start], [%i1, %after]
 %at = phi ptr [%table, %start], [%at1, %after]
 %since = phi i64 [%begin, %start], [%stamp, %after]
 %left = icmp slt i64 %i, %count
 br i1 %left, label %bind, label %out
bind:
 %fn = load ptr, ptr %at
 %p1 = getelementptr i64, ptr %at, i64 1
 %na = load i64, ptr %p1
 %p2 = getelementptr i64, ptr %at, i64 2
 %nz = load i64, ptr %p2
 %p3 = getelementptr i64, ptr %at, i64 3
 %grid = load i64, ptr %p3
 %p4 = getelementptr i64, ptr %at, i64 4
 %chunk = load i64, ptr %p4
 %pairs = getelementptr i64, ptr %at, i64 5
 br label %arg
arg:
 %j = phi i64 [0, %bind], [%j1, %put]
 %am = icmp slt i64 %j, %na
 br i1 %am, label %put, label %ready
put:
 %d = mul i64 %j, 2
 %q0 = getelementptr i64, ptr %pairs, i64 %d
 %base = load i64, ptr %q0
 %q1 = getelementptr i64, ptr %q0, i64 1
 %offset = load i64, ptr %q1
 %bq = getelementptr ptr, ptr %bases, i64 %base
 %addr = load ptr, ptr %bq
 %full = getelementptr i8, ptr %addr, i64 %offset
 %slot = getelementptr ptr, ptr %args, i64 %j
 store ptr %full, ptr %slot
 %j1 = add i64 %j, 1
 br label %arg
ready:
 %n2 = mul i64 %na, 2
 %sizes = getelementptr i64, ptr %pairs, i64 %n2
 %following = getelementptr i64, ptr %sizes, i64 %nz
 %next = add i64 %i, 1
 %code = ptrtoint ptr %fn to i64
 %flow = icmp ult i64 %code, FUNCTIONS_FROM
 br i1 %flow, label %branch, label %kernel
kernel:
 %big = icmp sgt i64 %grid, %chunk
 %par = and i1 %big, %mine
 br i1 %par, label %spread, label %alone
spread:
 call void @parallel(ptr %s, ptr %fn, ptr %args, ptr %sizes, i64 %grid, i64 %chunk, i64 %helpers)
 br label %on
alone:
 call void %fn(ptr %args, ptr %sizes, i64 0, i64 %grid)
 br label %on
branch:
 %a0 = load ptr, ptr %args
 %g1 = getelementptr ptr, ptr %args, i64 1
 %a1 = load ptr, ptr %g1
 %g2 = getelementptr ptr, ptr %args, i64 2
 %a2 = load ptr, ptr %g2
 %target = load i64, ptr %sizes
 %z1 = getelementptr i64, ptr %sizes, i64 1
 %place = load i64, ptr %z1
 %z2 = getelementptr i64, ptr %sizes, i64 2
 %size = load i64, ptr %z2
 %z3 = getelementptr i64, ptr %sizes, i64 3
 %rows = load i64, ptr %z3
 switch i64 %code, label %stop [
  i64 FLOW_JUMP, label %jump
  i64 FLOW_UNLESS, label %unless
  i64 FLOW_UNTIL, label %until
  i64 FLOW_AGAIN, label %again
  i64 FLOW_COPY, label %copies
  i64 FLOW_ROW, label %row
  i64 FLOW_EXACTLY, label %exactly
 ]
unless:
 %flag = load i8, ptr %a0
 %isset = icmp ne i8 %flag, 0
 br i1 %isset, label %on, label %jump
until:
 %c0 = load i64, ptr %a0
 %limit = load i64, ptr %a1
 %below = icmp slt i64 %c0, %limit
 br i1 %below, label %on, label %jump
again:
 %c1 = load i64, ptr %a0
 %c2 = add i64 %c1, 1
 store i64 %c2, ptr %a0
 br label %jump
copies:
 call void @copy(ptr %a1, ptr %a0, i64 %size)
 br label %on
row:
 %c3 = load i64, ptr %a1
 %room = icmp slt i64 %c3, %rows
 br i1 %room, label %fill, label %stop
fill:
 %start3 = mul i64 %c3, %size
 %to3 = getelementptr i8, ptr %a2, i64 %start3
 call void @copy(ptr %to3, ptr %a0, i64 %size)
 br label %on
exactly:
 %c4 = load i64, ptr %a0
 %agrees = icmp eq i64 %c4, %rows
 br i1 %agrees, label %on, label %stop
jump:
 %there = getelementptr i8, ptr %table, i64 %place
 br label %after
on:
 br label %after
after:
 %i1 = phi i64 [%next, %on], [%target, %jump]
 %at1 = phi ptr [%following, %on], [%there, %jump]
 %stamp = call i64 @note(ptr %s, ptr %times, i64 %i, i64 %since)
 br label %step
stop:
 %ended = add i64 %i, 1
 br label %out
out:
 %result = phi i64 [0, %step], [%ended, %stop]
 br i1 %mine, label %release, label %end
release:
 store atomic i32 0, ptr %bp release, align 4
 br label %end
end:
 ret i64 %result
}
"""
