/* crowd N SECONDS: N processes that do nothing, until the standard input ends or that many seconds are over.
 *
 * They are forks without an exec, so each takes the memory of a few pages; each 20 have a session of their own, as the
 * processes of a service or a terminal have. It prints "ready" once all are there, or "too many", and ends when all
 * are gone.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define TOGETHER 20
#define MOST 1000 /* sessions */

static pid_t makers[MOST];
static int sessions;

/* Does nothing until the parent ends, or the time is over. */
static void idle(pid_t parent, unsigned limit) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(limit);
    while (getppid() == parent)
        pause();
    _exit(0);
}

/* Makes a session of so many processes. Returns 0 where they are not to be had. */
static int make(int count, unsigned limit) {
    pid_t first = getpid(), maker;
    int told[2];
    char all = 0;

    if (sessions == MOST || pipe(told) || (maker = fork()) < 0)
        return 0;
    if (maker == 0) {
        pid_t self = getpid(), pid = 1;
        setsid();
        close(0);
        close(1);
        while (pid > 0 && --count > 0)
            pid = fork();
        if (pid == 0)
            idle(self, limit);
        if (pid < 0 || write(told[1], "y", 1) != 1)
            _exit(1);
        idle(first, limit);
    }
    makers[sessions++] = maker;
    close(told[1]);
    if (read(told[0], &all, 1) != 1)
        all = 0;
    close(told[0]);
    return all;
}

static void end_all(void) {
    for (int number = 0; number < sessions; number++)
        kill(-makers[number], SIGKILL);
    while (wait(NULL) > 0) /* with SIGCHLD ignored it waits for all of them */
        ;
}

int main(int argc, char **argv) {
    int count = argc > 1 ? atoi(argv[1]) : 0, made = 0;
    unsigned limit = argc > 2 ? (unsigned)atoi(argv[2]) : 60;
    char byte;

    signal(SIGCHLD, SIG_IGN);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    alarm(limit);
    while (made < count && make(count - made < TOGETHER ? count - made : TOGETHER, limit))
        made += TOGETHER;
    puts(made < count ? "too many" : "ready");
    fflush(stdout);
    while (made >= count && read(0, &byte, 1) > 0)
        ;
    end_all();
    return 0;
}
