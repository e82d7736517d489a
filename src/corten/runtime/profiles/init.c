/* The tiny init of `--init`: runs a program, hands it the signals it gets, collects orphans, ends as the program ends.
 *
 * Freestanding: no C library, so that the binary is a few kilobytes, static, and needs nothing of the container.
 * Built by tools/build-init; usage: init -- program [argument ...]
 */

typedef unsigned long word;

#if defined(__x86_64__)
enum { SYS_ioctl = 16, SYS_clone = 56, SYS_execve = 59, SYS_wait4 = 61, SYS_kill = 62, SYS_rt_sigprocmask = 14,
       SYS_rt_sigtimedwait = 128, SYS_exit_group = 231, SYS_write = 1, SYS_setpgid = 109 };
static long call(long n, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e;
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
	return result;
}
__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall begin\n");
#elif defined(__aarch64__)
enum { SYS_ioctl = 29, SYS_clone = 220, SYS_execve = 221, SYS_wait4 = 260, SYS_kill = 129, SYS_rt_sigprocmask = 135,
       SYS_rt_sigtimedwait = 137, SYS_exit_group = 94, SYS_write = 64, SYS_setpgid = 154 };
static long call(long n, long a, long b, long c, long d, long e)
{
	register long x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d, x4 __asm__("x4") = e;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return x0;
}
__asm__(".globl _start\n_start:\n\tmov x0, sp\n\tbl begin\n");
#endif

enum { SIG_BLOCK, SIG_UNBLOCK, SIG_SETMASK };
enum { SIGILL = 4, SIGTRAP = 5, SIGABRT = 6, SIGBUS = 7, SIGFPE = 8, SIGSEGV = 11, SIGCHLD = 17, SIGTTIN = 21, SIGTTOU = 22,
       SIGSYS = 31 };
enum { TIOCSPGRP = 0x5410, WNOHANG = 1, ENOENT = 2, EACCES = 13 };

#define BIT(signal) (1UL << ((signal) - 1))

static void leave(int code)
{
	for (;;)
		call(SYS_exit_group, code, 0, 0, 0, 0);
}

static word length(const char *text)
{
	word n = 0;
	while (text[n])
		n++;
	return n;
}

static void complain(const char *program)
{
	static const char before[] = "init: cannot execute ", after[] = "\n";
	call(SYS_write, 2, (long)before, sizeof before - 1, 0, 0);
	call(SYS_write, 2, (long)program, length(program), 0, 0);
	call(SYS_write, 2, (long)after, 1, 0, 0);
}

static int has_slash(const char *text)
{
	for (; *text; text++)
		if (*text == '/')
			return 1;
	return 0;
}

/* Try every directory of PATH; the last error that is not "no such file" decides the exit code. */
static void execute(char **arguments, char **environment)
{
	const char *path = 0;
	char candidate[4096];
	long error = -ENOENT;

	if (has_slash(arguments[0])) {
		error = call(SYS_execve, (long)arguments[0], (long)arguments, (long)environment, 0, 0);
	} else {
		for (char **entry = environment; *entry; entry++)
			if ((*entry)[0] == 'P' && (*entry)[1] == 'A' && (*entry)[2] == 'T' && (*entry)[3] == 'H' && (*entry)[4] == '=')
				path = *entry + 5;
		while (path && *path) {
			word n = 0, m = 0;
			for (; *path && *path != ':'; path++)
				if (n < sizeof candidate - 300)
					candidate[n++] = *path;
			if (*path == ':')
				path++;
			candidate[n++] = '/';
			for (; arguments[0][m] && n < sizeof candidate - 1; m++)
				candidate[n++] = arguments[0][m];
			candidate[n] = 0;
			long result = call(SYS_execve, (long)candidate, (long)arguments, (long)environment, 0, 0);
			if (result != -ENOENT)
				error = result;
		}
	}
	complain(arguments[0]);
	leave(error == -ENOENT ? 127 : 126);
}

/* Collect everyone who has ended; leave when it is the program itself. */
static void collect(long program)
{
	int status;
	for (;;) {
		long pid = call(SYS_wait4, -1, (long)&status, WNOHANG, 0, 0);
		if (pid <= 0)
			return;
		if (pid == program)
			leave((status & 0x7f) ? 128 + (status & 0x7f) : (status >> 8) & 0xff);
	}
}

__attribute__((used)) void begin(word *stack)
{
	word count = stack[0];
	char **arguments = (char **)(stack + 1), **environment = arguments + count + 1;
	/* faults of our own must still end us */
	word mask = ~(BIT(SIGILL) | BIT(SIGTRAP) | BIT(SIGABRT) | BIT(SIGBUS) | BIT(SIGFPE) | BIT(SIGSEGV) | BIT(SIGSYS)), before;
	char **command = arguments + 1;

	if (count > 1 && command[0][0] == '-' && command[0][1] == '-' && !command[0][2])
		command++;
	if (!*command) {
		complain("(nothing)");
		leave(127);
	}
	call(SYS_rt_sigprocmask, SIG_BLOCK, (long)&mask, (long)&before, 8, 0);
	long program = call(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	if (program < 0)
		leave(126);
	if (program == 0) {
		call(SYS_setpgid, 0, 0, 0, 0, 0);
		call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&before, 0, 8, 0);
		execute(command, environment);
	}
	/* in front of the terminal, if there is one */
	int foreground = (int)program;
	call(SYS_setpgid, program, program, 0, 0, 0);
	call(SYS_ioctl, 0, TIOCSPGRP, (long)&foreground, 0, 0);
	for (;;) {
		long signal = call(SYS_rt_sigtimedwait, (long)&mask, 0, 0, 8, 0);
		if (signal == SIGCHLD)
			collect(program);
		else if (signal > 0 && signal != SIGTTIN && signal != SIGTTOU)
			call(SYS_kill, program, signal, 0, 0, 0);
	}
}
