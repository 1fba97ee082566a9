/* A stand-in for libnvidia-ml.so.1 whose "VRAM" is real operating-system state.
 *
 * A process holds N bytes of fake GPU I for as long as anybody has this file open:
 *
 *     ROOT/alloc/gpu<I>-<pid>-<seq>           sparse, N bytes, already unlinked
 *     ROOT/alloc/gpu<I>-<pid>-<seq>-<ms>      sparse, N bytes, with a slow tear-down
 *     either with @<lists> behind it          which lists its process is in: c computes (as without @), g draws, m by MPS
 *
 * No table is kept: every query scans /proc/<pid>/fd again, but for those that follow each
 * other at once, as those of one look do (SHARED).  So the bytes go away only
 * when the last holder is really dead or has closed the file, also after SIGKILL, and
 * they stay with a forked child, as those of the driver do, whose client lives as long as
 * an open of /dev/nvidiactl.  A file with <ms> in its name still counts, with its dead
 * owner listed, for <ms> milliseconds after the first query that found no holder.
 *
 * ROOT is $FAKE_GPU_DIR, else the folder above the one that holds this library.
 * ROOT/config is read at every call: "key=value", or "key.<gpu>=value" for one GPU.
 *
 *     gpus, total_mib, reserved_mib, base_used_mib (used, but by no listed process), name
 *     driver_not_loaded=1     nvmlInit fails
 *     init_ms=N               nvmlInit takes N milliseconds
 *     hang=init|memory        that call never returns
 *     crash=init|memory|1     that call (1: any of them) raises SIGSEGV
 *     noise=1                 nvmlInit and the memory queries write to the process's stdout
 *     mem_unsupported=1       no memory figures (unified memory)
 *     mem_v2_unsupported=1    an old driver: version 1 of the memory query only
 *     procs_unsupported=1     no process list
 *     graphics_unsupported=1  an old driver: no list of the processes that draw, and none of those of MPS
 *     proc_mem_na=1, proc_mem_zero=1    processes are listed without their bytes, or with 0
 *     pid_offset=N            pids of another PID namespace
 *     mig=1                   MIG mode is enabled
 *     mig_parts=N             the GPU has N MIG devices; part J of GPU I has the number 16 + 7 * I + J here and in the
 *                             names of files: total_mib.17 is the memory of GPU 0's part 1
 *     owners_only=1           a fast driver: it knows files with <ms> in their names only, and counts them while their
 *                             owners live, whatever these have open
 *     util, compute_mode
 *     driver=N                the version of the driver, 580.00.00 if it is not set
 *     cuda=N                  the newest CUDA that the driver runs, as NVML writes it: 12040 for 12.4, 0 for a driver that does
 *                             not say; 13000 if it is not set
 *     capability=N            the compute capability times ten: 89 for 8.9, 0 for a driver that does not say
 *     maker=N                 a part of every UUID
 *     same_uuid=1             all GPUs have the UUID of the first one
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
#define MAX_GPUS 16
#define MAX_PARTS 7 /* of a GPU, as the real ones have */
#define NUMBERS (MAX_GPUS + MAX_GPUS * MAX_PARTS)
#define MIB (1ULL << 20)
#define SHARED 1e-3 /* seconds for which a scan of all of /proc counts, if no file was made meanwhile */
#define NOT_AVAILABLE 0xffffffffffffffffULL
#define MEMORY_V2 0x02000028u
#define NEED(device) do { if (!initialised) return UNINITIALISED; if (!valid(device)) return INVALID_ARGUMENT; } while (0)

typedef unsigned long long u64;
typedef enum {
    OK = 0, UNINITIALISED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9, VERSION_MISMATCH = 25,
} result;

/* The layouts below are those of nvml.h. */
typedef struct { int index; } *gpu_handle;
typedef struct { u64 total, free, used; } memory_v1;
typedef struct { unsigned version; u64 total, reserved, free, used; } memory_v2;
typedef struct { unsigned pid; u64 used; unsigned gpu_instance, compute_instance; } process_info;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci_info;
typedef struct { unsigned gpu, memory; } utilization;

typedef struct { unsigned owner; u64 bytes; ino_t inode; char lists[4]; } allocation;
typedef struct { allocation *items; size_t count, room; } allocations;

static struct { int index; } devices[NUMBERS]; /* each has its own place as its index, see number_devices */
static int initialised, control = -1;

/* ---- configuration -------------------------------------------------------------- */

static const char *root(void) {
    static char folder[PATH_MAX];
    const char *given = getenv("FAKE_GPU_DIR");
    Dl_info self;
    char library[PATH_MAX];
    if (folder[0]) return folder;
    if (given && *given) {
        if (!realpath(given, folder)) snprintf(folder, sizeof folder, "%s", given);
    } else if (dladdr((void *)root, &self) && realpath(self.dli_fname, library)) {
        snprintf(folder, sizeof folder, "%s", dirname(dirname(library)));
    }
    return folder;
}

/* Copies the value of `key` to `out`; "key.<gpu>" goes before "key". Returns 0 when there is none. */
static int setting(const char *key, int gpu, char *out, size_t size) {
    char path[PATH_MAX + 16], line[512], own_key[96];
    int found = 0;
    snprintf(path, sizeof path, "%s/config", root());
    snprintf(own_key, sizeof own_key, "%s.%d", key, gpu);
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    while (found < 2 && fgets(line, sizeof line, file)) {
        char *value = strchr(line, '=');
        if (!value) continue;
        *value++ = 0;
        value[strcspn(value, "\n")] = 0;
        int own = gpu >= 0 && !strcmp(line, own_key);
        if (!own && strcmp(line, key)) continue;
        snprintf(out, size, "%s", value);
        found = own ? 2 : 1;
    }
    fclose(file);
    return found;
}

static long long number(const char *key, int gpu, long long otherwise) {
    char value[64];
    return setting(key, gpu, value, sizeof value) ? strtoll(value, NULL, 10) : otherwise;
}

static int gpu_count(void) {
    long long n = number("gpus", -1, 1);
    return n > MAX_GPUS ? MAX_GPUS : (int)n;
}

static int is_part(int number) { return number >= MAX_GPUS; }
static int parent_of(int number) { return is_part(number) ? (number - MAX_GPUS) / MAX_PARTS : number; }
static int place_of(int part) { return (part - MAX_GPUS) % MAX_PARTS; }

static int part_count(int gpu) {
    long long n = number("mig", gpu, 0) ? number("mig_parts", gpu, 0) : 0;
    return n > MAX_PARTS ? MAX_PARTS : (int)n;
}

__attribute__((constructor)) static void number_devices(void) {
    for (int i = 0; i < NUMBERS; i++) devices[i].index = i;
}

static int valid(gpu_handle device) {
    if ((void *)device < (void *)devices || (void *)device >= (void *)(devices + NUMBERS)) return 0;
    int gpu = parent_of(device->index);
    return gpu < gpu_count() && (gpu == device->index || place_of(device->index) < part_count(gpu));
}

/* Misbehaves at `place` ("init" or "memory") as the configuration says. */
static void misbehave(const char *place, int gpu) {
    char where[64];
    if (number("noise", gpu, 0) && write(1, "nvml: noise\n{\"noise\"", 20) < 0) return;
    while (setting("hang", gpu, where, sizeof where) && !strcmp(where, place)) sleep(3600);
    if (setting("crash", gpu, where, sizeof where) && (!strcmp(where, place) || !strcmp(where, "1"))) raise(SIGSEGV);
}

/* ---- who holds what ------------------------------------------------------------- */

static int knows(const allocations *all, ino_t inode) {
    for (size_t i = 0; i < all->count; i++)
        if (all->items[i].inode == inode) return 1;
    return 0;
}

/* Adds what a file of this name holds; its owner is in the lists that stand behind an @ in the name, else computes. */
static void add(allocations *all, unsigned owner, const struct stat *st, const char *name) {
    if (all->count == all->room) {
        all->room = all->room ? all->room * 2 : 32;
        all->items = realloc(all->items, all->room * sizeof *all->items);
    }
    const char *lists = strchr(name, '@');
    allocation *item = &all->items[all->count++];
    *item = (allocation){owner, (u64)st->st_size, st->st_ino, ""};
    snprintf(item->lists, sizeof item->lists, "%.*s", lists ? (int)strspn(lists + 1, "cgm") : 1, lists ? lists + 1 : "c");
}

/* Adds what the open files in `fd_folder` hold of `gpu`. Returns whether any file is open there. */
static int scan_files(const char *fd_folder, int gpu, allocations *all) {
    char prefix[PATH_MAX + 32], path[PATH_MAX + 300], target[PATH_MAX];
    struct stat st;
    int length = snprintf(prefix, sizeof prefix, "%s/alloc/gpu%d-", root(), gpu);
    int any = 0;
    DIR *folder = opendir(fd_folder);
    if (!folder) return 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (!isdigit(entry->d_name[0])) continue;
        any = 1;
        snprintf(path, sizeof path, "%s/%s", fd_folder, entry->d_name);
        ssize_t size = readlink(path, target, sizeof target - 1);
        if (size <= length) continue;
        target[size] = 0;
        if (strncmp(target, prefix, (size_t)length)) continue;
        if (stat(path, &st)) continue;             /* a magic link: works for an unlinked file too */
        if (knows(all, st.st_ino)) continue;       /* seen before, in a forked relative */
        add(all, (unsigned)strtoul(target + length, NULL, 10), &st, target + length);
    }
    closedir(folder);
    return any;
}

/* A zombie leader has no files, its threads that still live have. */
static void scan_process(const char *pid, int gpu, allocations *all) {
    char path[PATH_MAX], tasks[300];
    snprintf(path, sizeof path, "/proc/%s/fd", pid);
    if (scan_files(path, gpu, all)) return;
    snprintf(tasks, sizeof tasks, "/proc/%s/task", pid);
    DIR *folder = opendir(tasks);
    if (!folder) return;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (!isdigit(entry->d_name[0]) || !strcmp(entry->d_name, pid)) continue;
        snprintf(path, sizeof path, "%s/%s/fd", tasks, entry->d_name);
        if (scan_files(path, gpu, all)) break;     /* threads share their files: one is enough */
    }
    closedir(folder);
}

/* Adds the file of this name, if the process that made it lives: a zombie executes nothing. */
static void ask_owner(int alloc_folder, const char *name, int gpu, allocations *all) {
    char path[64], target[8];
    struct stat st;
    unsigned owner;
    int of;
    if (sscanf(name, "gpu%d-%u-%*u-%*u", &of, &owner) != 2 || of != gpu) return;
    snprintf(path, sizeof path, "/proc/%u/exe", owner);
    if (readlink(path, target, sizeof target) > 0 && !fstatat(alloc_folder, name, &st, 0)) add(all, owner, &st, name);
}

/* Counts a file that nobody holds until its tear-down is over, and removes it then. */
static void tear_down(int alloc_folder, const char *name, allocations *all) {
    char renamed[300];
    struct stat st;
    struct timespec now;
    unsigned owner, ms;
    if (sscanf(name, "gpu%*d-%u-%*u-%u", &owner, &ms) != 2) return;
    if (fstatat(alloc_folder, name, &st, 0) || knows(all, st.st_ino)) return;
    clock_gettime(CLOCK_REALTIME, &now);
    double passed = (double)(now.tv_sec - st.st_mtim.tv_sec) + (double)(now.tv_nsec - st.st_mtim.tv_nsec) / 1e9;
    if (!strstr(name, "-dead")) {
        snprintf(renamed, sizeof renamed, "%s-dead", name);
        utimensat(alloc_folder, name, NULL, 0);
        renameat(alloc_folder, name, alloc_folder, renamed);
    } else if (passed * 1e3 > ms) {
        unlinkat(alloc_folder, name, 0);
        return;
    }
    add(all, owner, &st, name);
}

static allocations scan(int gpu) {
    allocations all = {0};
    struct dirent **torn = NULL, *entry;
    char path[PATH_MAX + 16], prefix[32];
    snprintf(prefix, sizeof prefix, "gpu%d-", gpu);
    snprintf(path, sizeof path, "%s/alloc", root());
    /* Listed before the processes are: a file on this list was open then, or its owner is dead. */
    int torn_count = scandir(path, &torn, NULL, alphasort);
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (number("owners_only", gpu, 0)) {
        for (int i = 0; i < torn_count; i++) ask_owner(folder, torn[i]->d_name, gpu, &all);
    } else {
        DIR *proc = opendir("/proc");
        while (proc && (entry = readdir(proc)))
            if (isdigit(entry->d_name[0])) scan_process(entry->d_name, gpu, &all);
        if (proc) closedir(proc);
    }
    for (int i = 0; i < torn_count; i++) {
        if (!strncmp(torn[i]->d_name, prefix, strlen(prefix))) tear_down(folder, torn[i]->d_name, &all);
        free(torn[i]);
    }
    free(torn);
    if (folder >= 0) close(folder);
    return all;
}

static double seconds(const struct timespec *time) { return (double)time->tv_sec + (double)time->tv_nsec / 1e9; }

/* As scan, but by the last one where that is fresh. */
static allocations look(int gpu) {
    static struct { allocations found; double at, made; } last[NUMBERS];
    char path[PATH_MAX + 16];
    struct stat st;
    struct timespec now;
    snprintf(path, sizeof path, "%s/alloc", root());
    double made = stat(path, &st) ? 0 : seconds(&st.st_mtim);
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (!last[gpu].at || seconds(&now) - last[gpu].at > SHARED || made != last[gpu].made) {
        free(last[gpu].found.items);
        last[gpu].found = scan(gpu);
        clock_gettime(CLOCK_MONOTONIC, &now);
        last[gpu].at = seconds(&now);
        last[gpu].made = made; /* as it was before: what came during the scan may be missing */
    }
    allocations copy = last[gpu].found;
    copy.items = malloc((copy.count + 1) * sizeof *copy.items);
    if (copy.count) memcpy(copy.items, last[gpu].found.items, copy.count * sizeof *copy.items);
    return copy;
}

static result memory(gpu_handle device, u64 *total, u64 *reserved, u64 *used, u64 *available) {
    int gpu = device->index;
    misbehave("memory", gpu);
    if (number("mem_unsupported", gpu, 0)) return NOT_SUPPORTED;
    allocations all = look(gpu);
    *total = (u64)number("total_mib", gpu, 24576) * MIB;
    *reserved = (u64)number("reserved_mib", gpu, 0) * MIB;
    *used = (u64)number("base_used_mib", gpu, 0) * MIB;
    for (size_t i = 0; i < all.count; i++) *used += all.items[i].bytes;
    if (*used > *total - *reserved) *used = *total - *reserved;
    *available = *total - *reserved - *used;
    free(all.items);
    return OK;
}

/* The processes of one list: 'c', 'g' or 'm'. */
static result processes(gpu_handle device, char wanted, unsigned *count, process_info *out) {
    int gpu = device->index;
    if (!count) return INVALID_ARGUMENT;
    if (number("procs_unsupported", gpu, 0)) return NOT_SUPPORTED;
    if (part_count(gpu)) return NO_PERMISSION; /* of all parts together only root is told */
    if (wanted != 'c' && number("graphics_unsupported", gpu, 0)) return NOT_SUPPORTED;
    allocations all = look(gpu);
    process_info *list = calloc(all.count + 1, sizeof *list);
    unsigned listed = 0, room = *count;
    unsigned offset = (unsigned)number("pid_offset", gpu, 0);
    for (size_t i = 0; i < all.count; i++) {
        unsigned j = 0;
        if (!strchr(all.items[i].lists, wanted)) continue;
        while (j < listed && list[j].pid != all.items[i].owner + offset) j++;
        if (j == listed) list[listed++] = (process_info){all.items[i].owner + offset, 0, ~0u, ~0u};
        list[j].used += all.items[i].bytes;
        if (number("proc_mem_zero", gpu, 0)) list[j].used = 0;
        if (number("proc_mem_na", gpu, 0)) list[j].used = NOT_AVAILABLE;
    }
    result answer = listed && (!out || room < listed) ? INSUFFICIENT_SIZE : OK;
    if (answer == OK && listed) memcpy(out, list, listed * sizeof *list);
    *count = listed;
    free(list);
    free(all.items);
    return answer;
}

/* ---- the library's functions: start, and what it says of the system ---------------- */

static result put(char *out, unsigned size, const char *text) {
    if (!out) return INVALID_ARGUMENT;
    if (strlen(text) >= size) return INSUFFICIENT_SIZE;
    strcpy(out, text);
    return OK;
}

/* As the real one: /dev/nvidiactl is open from the first nvmlInit to the last nvmlShutdown. */
static int open_control(void) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/dev/nvidiactl", root());
    return open(path, O_RDWR | O_CLOEXEC);
}

API result nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    usleep((useconds_t)number("init_ms", -1, 0) * 1000);
    misbehave("init", -1);
    if (number("driver_not_loaded", -1, 0)) return DRIVER_NOT_LOADED;
    if (!initialised++) control = open_control();
    return OK;
}
API result nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
API result nvmlInit(void) { return nvmlInitWithFlags(0); }
API result nvmlShutdown(void) {
    if (!initialised) return UNINITIALISED;
    if (!--initialised && control >= 0) close(control);
    return OK;
}
API const char *nvmlErrorString(result code) {
    switch (code) {
    case OK: return "Success";
    case UNINITIALISED: return "Uninitialized";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case NO_PERMISSION: return "Insufficient Permissions";
    case NOT_FOUND: return "Not Found";
    case INSUFFICIENT_SIZE: return "Insufficient Size";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case VERSION_MISMATCH: return "Argument Version Mismatch";
    }
    return "Unknown Error";
}
API result nvmlSystemGetDriverVersion(char *out, unsigned size) {
    char version[64] = "580.00.00";
    setting("driver", -1, version, sizeof version);
    return initialised ? put(out, size, version) : UNINITIALISED;
}
API result nvmlSystemGetNVMLVersion(char *out, unsigned size) { return put(out, size, "13.580.00.00"); }
API result nvmlSystemGetCudaDriverVersion_v2(int *version) {
    *version = (int)number("cuda", -1, 13000);
    return *version ? OK : NOT_SUPPORTED;
}
API result nvmlSystemGetCudaDriverVersion(int *version) { return nvmlSystemGetCudaDriverVersion_v2(version); }
API result nvmlSystemGetProcessName(unsigned pid, char *out, unsigned size) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    FILE *file = fopen(path, "re");
    if (!file) return NOT_FOUND;
    out[fread(out, 1, size - 1, file)] = 0;
    fclose(file);
    return OK;
}

/* ---- finding a device -------------------------------------------------------------- */

static void uuid_of(int gpu, char *out, size_t size) {
    snprintf(out, size, "%s-%08x-fa4e-4000-8000-%012d", is_part(gpu) ? "MIG" : "GPU",
             (unsigned)number("maker", gpu, 0), number("same_uuid", gpu, 0) ? 0 : gpu);
}
static void bus_id_of(int gpu, char *out, size_t size) { snprintf(out, size, "00000000:%02X:00.0", parent_of(gpu) + 1); }

static result find(const char *wanted, void (*text_of)(int, char *, size_t), gpu_handle *device) {
    char text[96];
    if (!initialised) return UNINITIALISED;
    for (int gpu = 0; gpu < NUMBERS; gpu++) {
        if (!valid((gpu_handle)&devices[gpu])) continue;
        text_of(gpu, text, sizeof text);
        if (strcasecmp(text, wanted)) continue;
        *device = (gpu_handle)&devices[gpu];
        return OK;
    }
    return NOT_FOUND;
}

API result nvmlDeviceGetCount_v2(unsigned *count) {
    if (!initialised) return UNINITIALISED;
    *count = (unsigned)gpu_count();
    return OK;
}
API result nvmlDeviceGetCount(unsigned *count) { return nvmlDeviceGetCount_v2(count); }
API result nvmlDeviceGetHandleByIndex_v2(unsigned index, gpu_handle *device) {
    if (!initialised) return UNINITIALISED;
    if (index >= (unsigned)gpu_count()) return INVALID_ARGUMENT;
    *device = (gpu_handle)&devices[index];
    return OK;
}
API result nvmlDeviceGetHandleByIndex(unsigned index, gpu_handle *device) {
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}
API result nvmlDeviceGetHandleByUUID(const char *uuid, gpu_handle *device) { return find(uuid, uuid_of, device); }
API result nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, gpu_handle *device) {
    return find(bus_id, bus_id_of, device);
}

/* ---- what is asked of a device ------------------------------------------------------- */

API result nvmlDeviceGetMemoryInfo(gpu_handle device, memory_v1 *out) {
    u64 reserved;
    NEED(device);
    result answer = memory(device, &out->total, &reserved, &out->used, &out->free);
    if (answer == OK) out->used += reserved;   /* version 1 counts what the driver reserves as used */
    return answer;
}
API result nvmlDeviceGetMemoryInfo_v2(gpu_handle device, memory_v2 *out) {
    NEED(device);
    if (out->version != MEMORY_V2 || number("mem_v2_unsupported", device->index, 0)) return VERSION_MISMATCH;
    return memory(device, &out->total, &out->reserved, &out->used, &out->free);
}
#define LISTING(function, list) \
    API result function(gpu_handle device, unsigned *count, process_info *out) { NEED(device); return processes(device, list, count, out); }
LISTING(nvmlDeviceGetComputeRunningProcesses_v3, 'c')
LISTING(nvmlDeviceGetComputeRunningProcesses_v2, 'c')
LISTING(nvmlDeviceGetGraphicsRunningProcesses_v3, 'g')
LISTING(nvmlDeviceGetMPSComputeRunningProcesses_v3, 'm')
API result nvmlDeviceGetName(gpu_handle device, char *out, unsigned size) {
    char name[96] = "NVIDIA FakeGPU 24GB";
    NEED(device);
    setting("name", parent_of(device->index), name, sizeof name);
    if (is_part(device->index))
        snprintf(name + strlen(name), sizeof name - strlen(name), " MIG 1g.%lldgb",
                 number("total_mib", device->index, 24576) / 1024);
    return put(out, size, name);
}
API result nvmlDeviceGetUUID(gpu_handle device, char *out, unsigned size) {
    char uuid[96];
    NEED(device);
    uuid_of(device->index, uuid, sizeof uuid);
    return put(out, size, uuid);
}
API result nvmlDeviceGetPciInfo_v3(gpu_handle device, pci_info *out) {
    NEED(device);
    memset(out, 0, sizeof *out);
    out->bus = (unsigned)parent_of(device->index) + 1;
    bus_id_of(device->index, out->bus_id, sizeof out->bus_id);
    snprintf(out->legacy, sizeof out->legacy, "0000:%02X:00.0", out->bus & 0xff);
    return OK;
}
API result nvmlDeviceGetMigMode(gpu_handle device, unsigned *current, unsigned *pending) {
    NEED(device);
    if (is_part(device->index)) return INVALID_ARGUMENT;
    if (!number("mig", device->index, 0)) return NOT_SUPPORTED;
    *current = *pending = 1;
    return OK;
}
API result nvmlDeviceGetMaxMigDeviceCount(gpu_handle device, unsigned *count) {
    NEED(device);
    *count = !is_part(device->index) && number("mig", device->index, 0) ? MAX_PARTS : 0;
    return OK;
}
API result nvmlDeviceGetMigDeviceHandleByIndex(gpu_handle device, unsigned index, gpu_handle *part) {
    NEED(device);
    if (is_part(device->index) || index >= MAX_PARTS) return INVALID_ARGUMENT;
    if ((int)index >= part_count(device->index)) return NOT_FOUND;
    *part = (gpu_handle)&devices[MAX_GPUS + MAX_PARTS * device->index + (int)index];
    return OK;
}
API result nvmlDeviceGetDeviceHandleFromMigDeviceHandle(gpu_handle part, gpu_handle *device) {
    NEED(part);
    if (!is_part(part->index)) return INVALID_ARGUMENT;
    *device = (gpu_handle)&devices[parent_of(part->index)];
    return OK;
}
API result nvmlDeviceIsMigDeviceHandle(gpu_handle device, unsigned *is) {
    NEED(device);
    *is = (unsigned)is_part(device->index);
    return OK;
}
API result nvmlDeviceGetUtilizationRates(gpu_handle device, utilization *out) {
    NEED(device);
    *out = (utilization){(unsigned)number("util", device->index, 0), 0};
    return OK;
}
API result nvmlDeviceGetComputeMode(gpu_handle device, int *out) {
    NEED(device);
    *out = (int)number("compute_mode", device->index, 0);
    return OK;
}
API result nvmlDeviceGetCudaComputeCapability(gpu_handle device, int *major, int *minor) {
    NEED(device);
    int tenths = (int)number("capability", parent_of(device->index), 89);
    if (!tenths) return NOT_SUPPORTED;
    *major = tenths / 10;
    *minor = tenths % 10;
    return OK;
}
API result nvmlDeviceGetTemperature(gpu_handle device, int sensor, unsigned *out) {
    NEED(device);
    (void)sensor;
    *out = 40;
    return OK;
}
static result at_clock(gpu_handle device, int domain, unsigned *out) {
    NEED(device);
    (void)domain;
    *out = 1500;
    return OK;
}
API result nvmlDeviceGetClockInfo(gpu_handle device, int domain, unsigned *out) { return at_clock(device, domain, out); }
API result nvmlDeviceGetMaxClockInfo(gpu_handle device, int domain, unsigned *out) { return at_clock(device, domain, out); }
API result nvmlDeviceGetProcessUtilization(gpu_handle device, void *samples, unsigned *count, u64 since) {
    NEED(device);
    (void)samples, (void)since;
    *count = 0;
    return NOT_FOUND;
}

/* Questions that monitors ask, with an answer that is always the same. */
#define ALWAYS(function, type, value) \
    API result function(gpu_handle device, type *out) { NEED(device); *out = (value); return OK; }
#define ALWAYS_RATE(function) \
    API result function(gpu_handle device, unsigned *rate, unsigned *period) { NEED(device); *rate = 0; *period = 167000; return OK; }
#define UNSUPPORTED(function) \
    API result function(gpu_handle device) { NEED(device); return NOT_SUPPORTED; }

/* Of a part, the index among the parts of its GPU (nvml.h). */
API result nvmlDeviceGetIndex(gpu_handle device, unsigned *out) {
    NEED(device);
    *out = (unsigned)(is_part(device->index) ? place_of(device->index) : device->index);
    return OK;
}
API result nvmlDeviceGetMinorNumber(gpu_handle device, unsigned *out) {
    NEED(device);
    *out = (unsigned)parent_of(device->index);
    return OK;
}
ALWAYS(nvmlDeviceGetPowerUsage, unsigned, 30000)
ALWAYS(nvmlDeviceGetEnforcedPowerLimit, unsigned, 350000)
ALWAYS(nvmlDeviceGetPowerManagementLimit, unsigned, 350000)
ALWAYS(nvmlDeviceGetPerformanceState, int, 8)
ALWAYS(nvmlDeviceGetPersistenceMode, int, 1)
ALWAYS(nvmlDeviceGetDisplayActive, int, 0)
ALWAYS(nvmlDeviceGetDisplayMode, int, 0)
ALWAYS_RATE(nvmlDeviceGetEncoderUtilization)
ALWAYS_RATE(nvmlDeviceGetDecoderUtilization)
UNSUPPORTED(nvmlDeviceGetFanSpeed)
UNSUPPORTED(nvmlDeviceGetDriverModel)
UNSUPPORTED(nvmlDeviceGetDriverModel_v2)
UNSUPPORTED(nvmlDeviceGetTotalEccErrors)
