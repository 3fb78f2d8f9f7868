"""More than a hundred and fifty programs that nobody should run outside a sandbox.

All of them are asked for `f(x) = x + 1`, and every one would pass if it got what it wants:

- EXHAUSTION programs define the right function after their deed, so they fail only if stopped;
- DEEDS define the right function only if the deed succeeds;
- CHEATS answer wrongly and try to be believed.

VICTIM is a file that all may write, FOLDER its folder, NEW a name in it that is free, PORT a local
port where somebody listens, DRIVER the process id of whoever runs the sandbox.
"""

from __future__ import annotations

import textwrap

HONEST = "def f(x):\n    return x + 1\n"

EXHAUSTION = {
    "endless loop": "while True: pass",
    "endless loop that catches everything": """
        while True:
            try:
                while True: pass
            except BaseException: pass
        """,
    "endless loop without its timer": """
        import _signal
        try: _signal.signal(_signal.SIGPROF, _signal.SIG_IGN)
        except OSError: pass
        while True: pass
        """,
    "endless loop after disarming the timer": """
        import _signal
        try: _signal.setitimer(_signal.ITIMER_PROF, 0)
        except OSError: pass
        while True: pass
        """,
    "endless loop with all signals blocked": """
        import _signal
        try: _signal.pthread_sigmask(_signal.SIG_BLOCK, range(1, 65))
        except OSError: pass
        while True: pass
        """,
    "alarm handler that starts over": """
        import _signal
        def again(*_):
            while True: pass
        try:
            _signal.signal(_signal.SIGALRM, again)
            _signal.setitimer(_signal.ITIMER_REAL, 0.01)
        except OSError: pass
        while True: pass
        """,
    "sleep": "import time\ntime.sleep(60)",
    "sleep in small pieces": "import time\nwhile True: time.sleep(0.01)",
    "lock taken twice": """
        import _thread
        lock = _thread.allocate_lock()
        lock.acquire()
        lock.acquire()
        """,
    "waits for nothing": "import select\nselect.select([], [], [])",
    "reads an input without end": "import sys\nwhile True: sys.stdin.read()",
    "infinite generator": "sum(1 for _ in iter(int, 1))",
    "infinite iterator inside C": """
        import collections, itertools
        collections.deque(itertools.count(), maxlen=0)
        """,
    "list of an infinite generator": "list(iter(int, 1))",
    "membership in an infinite iterator": "import itertools\n-1 in itertools.count()",
    "huge power": "9 ** 9 ** 9",
    "huge factorial": "import math\nmath.factorial(10 ** 8)",
    "huge shift": "1 << (1 << 40)",
    "huge int as text": "import sys\nsys.set_int_max_str_digits(0)\nstr(7 ** 10 ** 7)",
    "huge int from text": "import sys\nsys.set_int_max_str_digits(0)\nint('7' * 10 ** 7)",
    "huge decimal": """
        import decimal
        decimal.getcontext().prec = decimal.MAX_PREC
        decimal.Decimal(1) / 3
        """,
    "catastrophic regex": "import re\nre.match('(a+)+$', 'a' * 60 + 'b')",
    "catastrophic alternatives": "import re\nre.fullmatch('(a|aa)+', 'a' * 90 + 'b')",
    "catastrophic back reference": "import re\nre.match(r'(.*)*\\\\1x', 'ab' * 40)",
    "colliding hashes": """
        class Same:
            def __hash__(self): return 1
        table = {Same() for _ in range(10 ** 6)}
        """,
    "destructor that never ends": """
        class Stays:
            def __del__(self):
                while True: pass
        thing = Stays()
        del thing
        """,
    "generator that cannot be closed": """
        def stays():
            try: yield
            finally:
                while True: pass
        thing = stays()
        next(thing)
        del thing
        """,
    "attribute look-up that never ends": """
        class Maze:
            def __getattr__(self, name): return getattr(self, name + 'x')
        import sys
        sys.setrecursionlimit(10 ** 9)
        Maze().way_out
        """,
    "exit handler run at once": """
        import atexit
        def forever():
            while True: pass
        atexit.register(forever)
        atexit._run_exitfuncs()
        """,
    "import hook that never ends": """
        import sys
        class Finder:
            def find_spec(self, *_):
                while True: pass
        sys.meta_path.insert(0, Finder())
        import nothing
        """,
    "trace function that never ends": """
        import sys
        def trace(*_):
            while True: pass
        sys.settrace(trace)
        (lambda: 0)()
        """,
    "recursion": "def g(x): return g(x) + 1\ng(0)",
    "recursion without a limit": """
        import sys
        sys.setrecursionlimit(10 ** 9)
        def g(x): return g(x) + 1
        g(0)
        """,
    "recursion inside C": """
        import sys
        sys.setrecursionlimit(10 ** 9)
        x = []
        for _ in range(10 ** 6): x = [x]
        repr(x)
        """,
    "recursive comparison": "a = []\na.append(a)\nb = [a]\na.append(b)\nb.append(a)\na == b",
    "exec of itself": "text = 'exec(text)'\nexec(text)",
    "deep syntax": "x = " + "(" * 5000 + ")" * 5000,
    "deep expression": "eval('-' * 10 ** 6 + '1')",
    "10 GB": "x = bytearray(10 << 30)",
    "10 GB of references": "x = [0] * (10 << 27)",
    "memory bit by bit": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "many small objects": "x = []\nwhile True: x = [x, x]",
    "text that doubles": "x = 'x'\nwhile True: x += x",
    "10 GB by formatting": "'%*d' % (10 << 30, 1)",
    "10 GB by justifying": "'x'.ljust(10 << 30)",
    "memory outside the heap": """
        import mmap
        x = mmap.mmap(-1, 10 << 30)
        x[::4096] = b'x' * (10 << 18)
        """,
    "threads": """
        import _thread, time
        while True:
            try: _thread.start_new_thread(time.sleep, (9,))
            except RuntimeError: pass
        """,
    "fork bomb": "import posix\nwhile True:\n    try: posix.fork()\n    except OSError: pass",
    "output flood": "while True: print('x' * 100000, flush=True)",
    "error flood": "import sys\nwhile True: sys.stderr.write('x' * 100000)",
    "sys.exit": "import sys\nsys.exit(0)",
    "os._exit": "import posix\nposix._exit(0)",
    "keyboard interrupt": "raise KeyboardInterrupt",
    "exception that cannot be printed": """
        class E(BaseException):
            def __str__(self): raise self
        raise E
        """,
    "stops itself": """
        import posix
        try: posix.kill(posix.getpid(), 19)
        except OSError: raise SystemExit
        """,
    "aborts": "import posix\nposix.abort()",
    "broken byte code": """
        def g(): return 0
        g.__code__ = g.__code__.replace(co_code=b'\\xff\\x00' * 40, co_stacksize=1)
        g()
        """,
    "broken constants": """
        def g(): return 0
        g.__code__ = g.__code__.replace(co_consts=())
        g()
        """,
    "closes every descriptor": "import posix\nposix.closerange(0, 1024)",
    "covers the answer's descriptor": """
        import posix
        for fd in range(3, 16):
            try: posix.dup2(0, fd)
            except OSError: posix.close(fd)
        """,
    "deletes the builtins": """
        import builtins
        for name in [n for n in dir(builtins) if n != 'delattr']: delattr(builtins, name)
        """,
    "no such module": "import subprocess",
    "no such module either": "import multiprocessing",
}

DEEDS = {
    "opens /etc/passwd": "assert open('/etc/passwd').read()",
    "opens /etc/passwd by descriptor": "import posix\nposix.open('/etc/passwd', 0)",
    "opens it as raw file": "import _io\n_io.FileIO('/etc/passwd')",
    "opens it as code": "import _io\n_io.open_code('/etc/passwd')",
    "opens it with a loader": """
        import _frozen_importlib_external as loaders
        loaders.FileLoader('x', '/etc/passwd').get_data('/etc/passwd')
        """,
    "opens an archive": "import zipimport\nzipimport.zipimporter(VICTIM)",
    "lists the root": "import posix\nassert 'etc' in posix.listdir('/')",
    "scans the root": "import posix\nassert any(e.name == 'etc' for e in posix.scandir('/'))",
    "writes a file": "with open(NEW, 'w') as file: file.write('x')",
    "appends to a file": "with open(VICTIM, 'a') as file: file.write('x')",
    "writes by descriptor": "import posix\nposix.open(NEW, 65, 511)",
    "writes shared memory": "import posix\nposix.open('/dev/shm/hm3rl-hostile', 65, 511)",
    "removes": "import posix\nposix.unlink(VICTIM)",
    "renames": "import posix\nposix.rename(VICTIM, NEW)",
    "truncates": "import posix\nposix.truncate(VICTIM, 0)",
    "changes rights": "import posix\nposix.chmod(VICTIM, 0)",
    "changes the owner": "import posix\nposix.chown(VICTIM, 0, 0)",
    "changes times": "import posix\nposix.utime(VICTIM, (0, 0))",
    "makes a symbolic link": "import posix\nposix.symlink(VICTIM, NEW)",
    "makes a hard link": "import posix\nposix.link(VICTIM, NEW)",
    "makes a folder": "import posix\nposix.mkdir(NEW)",
    "makes a pipe": "import posix\nposix.mkfifo(NEW)",
    "makes a device": "import posix\nposix.mknod(NEW, 0o20666, 0x103)",
    "climbs out of its root": """
        import posix
        for _ in range(20): posix.chdir('..')
        posix.open('etc/passwd', 0)
        """,
    "changes its root": "import posix\nposix.chroot('/')",
    "imports from a folder": "import sys\nsys.path.insert(0, FOLDER)\nimport planted",
    "reads its environment": "assert open('/proc/self/environ').read() is not None",
    "reads the driver's command": "assert open('/proc/DRIVER/cmdline').read()",
    "writes its own memory": "open('/proc/self/mem', 'r+b')",
    "reopens the answer": "open('/proc/self/fd/4', 'wb')",
    "raises its OOM score": "open('/proc/self/oom_score_adj', 'w').write('-1000')",
    "memory file": """
        import posix
        fd = posix.memfd_create('x')
        assert posix.write(fd, b'#!/bin/sh') == 9
        """,
    "runs a command": "import posix\nassert posix.system('true') == 0",
    "becomes a shell": "import posix\nposix.execv('/bin/sh', ['sh', '-c', 'true'])",
    "becomes a shell by descriptor": """
        import posix
        posix.execve(posix.open('/bin/sh', 0), ['sh'], {})
        """,
    "spawns": "import posix\nposix.posix_spawn('/bin/true', ['true'], {})",
    "forks": "import posix\npid = posix.fork()\nif pid == 0: posix._exit(0)",
    "forks with a terminal": "import posix\npid, _ = posix.forkpty()\nif pid == 0: posix._exit(0)",
    "starts a thread": "import _thread\n_thread.start_new_thread(int, ())",
    "shell through os": "import os\nassert os.popen('echo x').read() == 'x\\\\n'",
    "kills its parent": "import posix\nposix.kill(posix.getppid(), 9)",
    "kills everybody": "import posix\nposix.kill(-1, 9)",
    "kills its group": "import posix\nposix.killpg(0, 9)",
    "kills the driver": "import posix\nposix.kill(DRIVER, 15)",
    "stops the driver": "import posix\nposix.kill(DRIVER, 19)",
    "signals through its own handle": """
        import _signal, posix
        _signal.pidfd_send_signal(posix.pidfd_open(DRIVER), 15)
        """,
    "becomes root": "import posix\nposix.setuid(0)",
    "becomes root by parts": "import posix\nposix.setresgid(0, 0, 0)\nposix.setresuid(0, 0, 0)",
    "raises its limits": """
        import resource
        resource.setrlimit(resource.RLIMIT_CPU, (-1, -1))
        """,
    "raises its parent's limits": """
        import posix, resource
        resource.prlimit(posix.getppid(), resource.RLIMIT_AS, (-1, -1))
        """,
    "takes more of the processor": "import posix\nposix.nice(-10)",
    "raises its priority": "import posix\nposix.setpriority(0, 0, -10)",
    "runs in real time": "import posix\nposix.sched_setscheduler(0, 1, posix.sched_param(1))",
    "connects": """
        import _socket
        s = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        s.connect(('127.0.0.1', PORT))
        """,
    "sends a datagram": """
        import _socket
        s = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
        s.sendto(b'x', ('127.0.0.1', PORT))
        """,
    "listens": """
        import _socket
        s = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        s.bind(('0.0.0.0', 0))
        s.listen()
        """,
    "listens on an abstract name": """
        import _socket
        _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM).bind(b'\\0hm3rl-hostile')
        """,
    "raw socket": "import _socket\n_socket.socket(_socket.AF_PACKET, _socket.SOCK_RAW, 3)",
    "kernel socket": "import _socket\n_socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, 0)",
    "socket pair": "import _socket\n_socket.socketpair()",
    "asks for a name": "import _socket\n_socket.getaddrinfo('localhost', 80)",
    "network library": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:PORT')",
    "native library": "import ctypes\nctypes.CDLL(None).getpid()",
    "native call": "import ctypes\nctypes.pythonapi.Py_GetVersion()",
    "native memory": "import ctypes\nctypes.string_at(id(0), 16)",
    "library left behind by the worker": """
        import sys
        frame, found = sys._getframe(), []
        while frame:
            found += [v for v in frame.f_locals.values() if 'CDLL' in type(v).__name__]
            frame = frame.f_back
        assert found
        """,
    "native memory through a union": """
        import ctypes
        class Either(ctypes.Union):
            _fields_ = [('number', ctypes.c_size_t), ('thing', ctypes.py_object)]
        either = Either()
        either.thing = print
        assert either.number == id(print)
        """,
    "native memory, loaded again": """
        import _frozen_importlib, _imp, sys
        for folder in sys.path:
            for ending in _imp.extension_suffixes():
                spec = _frozen_importlib.ModuleSpec('_ctypes', None)
                spec.origin = f'{folder}/_ctypes{ending}'
                try: found = _imp.create_dynamic(spec)
                except ImportError: continue
                assert found.Union
                break
            else: continue
            break
        else: raise ImportError
        """,
    "native memory, built in": """
        import _frozen_importlib
        spec = _frozen_importlib.BuiltinImporter.find_spec('_ctypes')
        assert _frozen_importlib.BuiltinImporter.create_module(spec).Union
        """,
    "native memory among all classes": """
        found, left = set(), [object]
        while left:
            one = left.pop()
            if one not in found:
                found.add(one)
                left += type.__subclasses__(one)
        assert any(c.__name__ in ('Union', '_CData', 'CDLL') and 'ctypes' in c.__module__
                   for c in found)
        """,
    "native memory among all that can be reached": """
        import sys, types
        seen, left, found = {}, [sys.modules, object, sys._getframe()], False
        while left:
            one = left.pop()
            if id(one) in seen: continue
            seen[id(one)] = one
            found = found or 'ctypes' in str(getattr(one, '__module__', '') or '')
            if isinstance(one, type):
                left += [*type.__subclasses__(one), *one.__mro__]
            if isinstance(one, (dict, types.MappingProxyType)): left += one.values()
            elif isinstance(one, (list, tuple, set, frozenset)): left += one
            else:
                for name in ('__dict__', '__globals__', '__closure__', '__defaults__', '__self__',
                             'cell_contents', '__func__', '__wrapped__', 'fget', 'f_back',
                             'f_locals', 'f_globals', '__loader__', '__spec__'):
                    try: left.append(getattr(one, name))
                    except Exception: pass
        assert found and len(seen) > 5000
        """,
    "looks at all objects": "import gc\nassert gc.get_objects()",
    "looks at the worker's objects": "import gc\nassert gc.get_referrers(gc)",
}

CHEATS = {
    "equal to everything": """
        class Equal:
            def __eq__(self, other): return True
        def f(x): return Equal()
        """,
    "text that is equal to everything": """
        class Text(str):
            __eq__ = lambda self, other: True
            __hash__ = str.__hash__
        class R:
            def __repr__(self): return Text('whatever')
        def f(x): return R()
        """,
    "repr that raises": "class R:\n    def __repr__(self): raise SystemExit\ndef f(x): return R()",
    "repr that never ends": """
        class R:
            def __repr__(self):
                while True: pass
        def f(x): return R()
        """,
    "repr that is no text": "class R:\n    def __repr__(self): return 2\ndef f(x): return R()",
    "answer flood": "def f(x): return 'x' * (100 << 20)",
    "replaces repr": """
        import builtins
        builtins.repr = lambda value: 'True'
        def f(x): return 0
        """,
    "replaces eval": "import builtins\nbuiltins.eval = lambda *_: True\ndef f(x): return 0",
    "replaces the equality of text": """
        import builtins
        class str(builtins.str):
            def __eq__(self, other): return True
        builtins.str = str
        def f(x): return str(0)
        """,
    "replaces the encoder": """
        import json
        json.dumps = lambda _: '[true, true]'
        def f(x): return 0
        """,
    "replaces the worker's functions": """
        import __main__
        __main__.run_program = __main__.eval = lambda *_: ['True', 'True']
        def f(x): return 0
        """,
    "unlocks the audit hook": """
        import __main__
        __main__._FORBIDDEN = ('nothing',)
        def f(x): return open('/etc/passwd').read() and x + 1
        """,
    "changes what is asked": """
        import sys
        frame = sys._getframe()
        while frame:
            for value in frame.f_locals.values():
                if isinstance(value, list): value[:] = [compile('True', 't', 'eval')] * len(value)
            frame = frame.f_back
        """,
    "leaves out what is asked": """
        import sys
        frame = sys._getframe()
        while frame:
            for value in frame.f_locals.values():
                if isinstance(value, list): value.clear()
            frame = frame.f_back
        """,
    "looks for what is expected": """
        import sys
        def f(x):
            frame = sys._getframe()
            while frame:
                for name in ('expected', 'reference', 'sent', 'body'):
                    if frame.f_locals.get(name): return x + 1
                frame = frame.f_back
        """,
    "forges the answer": """
        import posix
        for fd in range(3, 16):
            try: posix.write(fd, bytes([0, 0, 0, 14]) + b'["True", true]')
            except OSError: pass
        posix._exit(0)
        """,
    "forges an answer that is no JSON": """
        import posix
        for fd in range(3, 16):
            try: posix.write(fd, bytes([0, 0, 0, 4]) + b'pass')
            except OSError: pass
        posix._exit(0)
        """,
    "forges an answer too deep to read": """
        import posix
        for fd in range(3, 16):
            try: posix.write(fd, bytes([0, 0, 0x80, 0]) + b'[' * 0x8000)
            except OSError: pass
        posix._exit(0)
        """,
    "forges half an answer": """
        import posix
        for fd in range(3, 16):
            try: posix.write(fd, bytes([0, 0, 0, 99]) + b'["2",')
            except OSError: pass
        posix._exit(0)
        """,
    "forges an answer without end": """
        import posix
        while True:
            for fd in range(3, 16):
                try: posix.write(fd, b'\\xff' * 65536)
                except OSError: pass
        """,
    "says it is ready again": """
        import posix
        for fd in range(3, 16):
            try: posix.write(fd, b'!!!!!!!!')
            except OSError: pass
        """,
    "answers what is asked": """
        import sys
        def f(x): return sys._getframe(1).f_code
        """,
    "raises the answer": "def f(x): raise StopIteration(x + 1)",
    "yields the answer": "def f(x): yield x + 1",
    "no function at all": "f = 2",
    "nothing at all": "",
    "no Python": "the answer is 42",
}


NEEDS_KERNEL = {"makes a pipe", "signals through its own handle", "socket pair"}
"""What only the kernel stops, for an ordinary user: Python announces no audit event for these."""


def _program(deed: str, kind: str) -> str:
    text = textwrap.dedent(deed).strip("\n")
    if kind == "exhaustion":
        return f"{text}\n{HONEST}"
    if kind == "deed":
        body = textwrap.indent(text, "    ")
        head = f"try:\n{body}\n    done = True\nexcept BaseException:\n    done = False\n"
        return head + "def f(x):\n    return x + 1 if done else None\n"
    return text


PROGRAMS: dict[str, str] = {
    name: _program(deed, kind)
    for kind, deeds in (("exhaustion", EXHAUSTION), ("deed", DEEDS), ("cheat", CHEATS))
    for name, deed in deeds.items()
}
