/* disk_calls.h - disk.h's calls on Windows
 *
 * The same rules, by the same names, for the calls that room disk makes on
 * Windows. No call of Windows is interrupted: a rule that says EINTR is used
 * up, and the next rule counts, as if room disk had called again.
 */

#if !defined(KAWS_DISKS_H)
#define KAWS_DISKS_H


/* 0, or the errno value to fail with, which is what GetLastError() then says in
 * its own words. */
static int
disk_refuses(const char *call, char letter)
{
    static const struct { int os; DWORD error; } words[] = {
        { EACCES, ERROR_ACCESS_DENIED },  { EBADF, ERROR_INVALID_HANDLE },
        { EINVAL, ERROR_INVALID_PARAMETER }, { EIO, ERROR_IO_DEVICE },
        { EMFILE, ERROR_TOO_MANY_OPEN_FILES }, { ENOLCK, ERROR_LOCK_FAILED },
        { ENOSPC, ERROR_DISK_FULL },      { EPERM, ERROR_PRIVILEGE_NOT_HELD },
        { EROFS, ERROR_WRITE_PROTECT },   { EAGAIN, ERROR_SUCCESS }
    };
    size_t i = 0;
    int os;

    do {
        os = disk_fails(call, letter) ? errno : 0;
    } while (os == EINTR);
    while (os != 0 && words[i].os != os)
        if (++i == sizeof words / sizeof words[0])
            abort();
    SetLastError(os != 0 ? words[i].error : ERROR_SUCCESS);
    return os;
}


DISK BOOL
disk_read(HANDLE file, void *to, DWORD len, DWORD *got, OVERLAPPED *at)
{
    int os = disk_refuses("pread", '\0');

    if (os == EAGAIN && len > 1)          /* stands for: fewer than asked     */
        len /= 2;
    return (os == 0 || os == EAGAIN) && ReadFile(file, to, len, got, at);
}


DISK BOOL
disk_write(HANDLE file, const void *from, DWORD len, DWORD *done,
           OVERLAPPED *at)
{
    OVERLAPPED where = *at;
    int os = disk_refuses("pwrite", 'w');

    if ((os == EAGAIN && len > 1) || os == ENOSPC)
        len /= 2;
    if (os == ENOSPC && WriteFile(file, from, len, done, &where))
        SetLastError(ERROR_DISK_FULL);
    return (os == 0 || os == EAGAIN) && WriteFile(file, from, len, done, at);
}


/* A folder's handle, or a file's. */
DISK BOOL
disk_flush(HANDLE file)
{
    BY_HANDLE_FILE_INFORMATION i;
    int folder = GetFileInformationByHandle(file, &i) &&
                 i.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY;

    return disk_refuses(folder ? "fsync" : "fdatasync",
                        folder ? 'f' : 'd') == 0 && FlushFileBuffers(file);
}


DISK errno_t
disk_end(int fd, int64_t len)
{
    int os = disk_refuses("ftruncate", 't');

    return os != 0 ? os : _chsize_s(fd, len);
}


#define ReadFile         disk_read
#define WriteFile        disk_write
#define FlushFileBuffers disk_flush
#define _chsize_s        disk_end
#define CreateFileW(path, access, ...) \
    (disk_refuses((access) == GENERIC_WRITE ? "opendir" : "open", '\0') != 0 \
     ? INVALID_HANDLE_VALUE : CreateFileW(path, access, __VA_ARGS__))
#define GetFileInformationByHandle(file, out) \
    (disk_refuses("fstat", '\0') == 0 && GetFileInformationByHandle(file, out))
#define MoveFileExW(from, to, flags) \
    (disk_refuses("rename", 'r') == 0 && MoveFileExW(from, to, flags))
#define DeleteFileW(path) \
    (disk_refuses("unlink", 'u') == 0 && DeleteFileW(path))
#define CreateDirectoryW(path, security) \
    (disk_refuses("mkdir", 'm') == 0 && CreateDirectoryW(path, security))
#define LockFileEx(file, flags, zero, len, high, at) \
    (disk_refuses("fcntl", '\0') == 0 && \
     LockFileEx(file, flags, zero, len, high, at))

#endif /* KAWS_DISKS_H */
