/* There is no kernel module to talk to: this file is here for programs that include it. */
#ifndef _BLCR_IOCTL_H
#define _BLCR_IOCTL_H

#endif
