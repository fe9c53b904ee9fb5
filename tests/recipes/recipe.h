/* recipe.h - what the programs around the manual's recipes share
 *
 * Each program includes recipe.c, a recipe as tests/test_recipes.py cut it out
 * of the manual, and uses it as its reader would. The recipe's text is not
 * changed: that it meets an emulator of AWS KMS, the linker's --wrap sees to.
 */

#include "keyring_aws.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "recipe.c"

#define MUST(what) do if (!(what)) {                                          \
        fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what);            \
        exit(2);                                                              \
    } while (0)

kaws_status __real_kaws_open(kaws **ring, const kaws_config *cfg,
                             kaws_error *err);
kaws_status __wrap_kaws_open(kaws **ring, const kaws_config *cfg,
                             kaws_error *err);


kaws_status
__wrap_kaws_open(kaws **ring, const kaws_config *cfg, kaws_error *err)
{
    kaws_config here = *cfg;

    MUST(here.endpoint == NULL && here.ca_file == NULL);
    here.endpoint = getenv("RECIPE_URL");
    here.ca_file = getenv("RECIPE_CA");
    return __real_kaws_open(ring, &here, err);
}


/* Says what went wrong, for the test to read. */
static int
recipe_failed(const kaws_error *err)
{
    printf("%s: %s\n", kaws_status_text(err->status), err->text);
    return 1;
}
