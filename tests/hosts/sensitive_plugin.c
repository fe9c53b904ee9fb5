/* A plugin of MySQL 8.0.29 or later that does nothing but have a variable whose
 * value is sensitive: SET PERSIST encrypts it with a key of the keyring. The
 * server of Debian has no such variable. VERSION is the server's, as 90704. */

#include <stddef.h>

enum { DAEMON = 3, GPL = 1, TEXT = 0x0005, MEMALLOC = 0x8000,
       SENSITIVE = 0x80000 };

struct var {
    int         flags;
    const char *name, *comment;
    void      (*check)(void);
    void      (*update)(void *thd, struct var *var, void *at, const void *save);
    void       *at;
    const char *def;
};

struct plugin {
    int         type;
    void       *info;
    const char *name, *author, *descr;
    int         license;
    void       *init, *check_uninstall, *deinit;
    unsigned    version;
    void       *status_vars;
    struct var **system_vars;
    void       *reserved;
    unsigned long flags;
};

#define SHOWN __attribute__((visibility("default")))

static int   version = VERSION << 8;
static char *value;

static void
update(void *thd, struct var *var, void *at, const void *save)
{
    (void)thd, (void)var;
    *(void **)at = *(void *const *)save;
}

static struct var secret = { TEXT | MEMALLOC | SENSITIVE, "secret", "A secret.",
                             NULL, update, &value, NULL };
static struct var *vars[] = { &secret, NULL };

SHOWN int _mysql_plugin_interface_version_ = 0x010b;
SHOWN int _mysql_sizeof_struct_st_plugin_ = sizeof(struct plugin);
SHOWN struct plugin _mysql_plugin_declarations_[] = {
    { DAEMON, &version, "sensitive", "the tests", "Has a secret.", GPL, NULL,
      NULL, NULL, 0x0100, NULL, vars, NULL, 0 },
    { 0, NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, 0, NULL, NULL, NULL, 0 }
};
