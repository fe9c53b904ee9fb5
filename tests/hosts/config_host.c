/* config_host.c - reads the settings file of the component, as the component
 * does, and prints what it finds
 *
 *     config_host COMPONENT_FOLDER [INSTANCE_FOLDER]
 *
 * Each line begins with a word: "warn" and a line of the log; "error" and a
 * sentence; or "set", a setting that is not as by default, and its value.
 */

#include "../../keyring_aws_plugin.c"

static plug__guard guard;


static void
hear(int level, const char *line)
{
    (void)level;
    printf("warn %s\n", line);
}


static void
show(const plug__settings_row *row, const plug__settings_value *value)
{
    const char *const text = row->def.text != NULL ? row->def.text : "";

    if (row->kind == PLUG__NUMBER && value->number != row->def.number[0])
        printf("set %s = %d\n", row->name, value->number);
    else if (row->kind == PLUG__FLAG && value->flag != row->def.flag)
        printf("set %s = %s\n", row->name, value->flag ? "true" : "false");
    else if (row->kind == PLUG__TEXT && value->text != NULL
             && strcmp(value->text, text) != 0)
        printf("set %s = %s\n", row->name, value->text);
}


int
main(int argc, char **argv)
{
    plug__guard_config cfg;
    plug__config *config;
    kaws_error err;

    if (argc < 2)
        return 2;
    plug__guard_begin(&guard, &plug__component_host, hear);
    config = plug__config_read(&guard, argv[1], argc > 2 ? argv[2] : NULL,
                               &err);
    if (config == NULL
        || plug__settings_read(&guard, config->values, &cfg, &err) != KAWS_OK)
        printf("error %s\n", err.text);
    else
        for (int i = 0; i < PLUG__SETTINGS; i++)
            show(&plug__settings_rows[i], &config->values[i]);
    plug__config_free(config);
    return 0;
}
