#include <stdio.h>
#include "words.h"

int main(int count, char **words)
{
    printf("%s, %s\n", greeting(), count > 1 ? words[1] : "nobody");
    return 0;
}
