/* refuse.c: see refuse.h. */
#include "checkpoint/refuse.h"

#include "base/text.h"

#include <stdio.h>

enum wm_status ckpt_refuse(struct wm_error *err, enum wm_status status, const char *identifier, const char *path,
                           const char *format, ...)
{
    char shown[800], sentence[1100];
    va_list args;

    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    return error_set(err, status, "%s: %s [%s]", text_display(shown, sizeof shown, path), sentence, identifier);
}
