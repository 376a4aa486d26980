/*
 * place.h: the folder of a model and the files that belong to it.
 *
 * What lives here: the rule that nothing named inside a model makes us open a file outside of it. A member is a plain
 * name in the folder; where it is a link, the link must end inside the folder or, for a hub snapshot, in the same
 * repository's blobs. What it must not know: which members a model has.
 */
#ifndef WM_CHECKPOINT_PLACE_H
#define WM_CHECKPOINT_PLACE_H

#include "base/arena.h"
#include "base/error.h"
#include "checkpoint/hub_cache.h"

#include <stdbool.h>
#include <stdint.h>

struct place {
    const char *dir;         /* real path */
    struct hub_snapshot hub; /* repo_id NULL: a plain folder */
};

struct member {
    const char *name;
    const char *path;   /* dir/name, through the link if it is one */
    const char *sha256; /* where the hub cache names it, else NULL */
    bool exists;        /* false too for a link whose target is missing: then `broken` */
    bool broken;
    uint64_t n_bytes, inode, device;
};

enum place_rule {
    PLACE_INSIDE,  /* a name that the model or its layout gave */
    PLACE_ANYWHERE /* a path that the user gave: links may lead where they want */
};

/* Looks at a member without opening it. WM_BAD_DATA when it leads outside or is no regular file. */
enum wm_status place_member(const struct place *place, const char *name, enum place_rule rule, struct member *member,
                            struct arena *arena, struct wm_error *err);

#endif
